"""Finds out whether a launcher has started several ranks, connects them, and ends them together."""

import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import tinytensor as tt
from gpt.cli import SMALLER_BATCH, error_message
from gpt.errors import UserError
from gpt.signals import Terminated
from tinytensor.backend import find_nccl
from tinytensor.parallel import ONE_RANK, Communicator
from tinytensor.parallel.nccl import NCCLRanks
from tinytensor.parallel.ranks import MPIRanks, world

# how many processes a launcher has started, and the number of this one: MPICH and Intel MPI, Open MPI, Slurm
LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
PATIENCE = 1.5  # seconds in which rank 0, if it meets the same error, reports it and ends all


def launched() -> tuple[int, int]:
    """How many processes a launcher has started, and which of them this is; (1, 0) without one."""
    for size, rank in LAUNCHERS:
        if os.environ.get(size, "1") not in ("", "1"):
            return int(os.environ[size]), int(os.environ.get(rank, "0"))
    return 1, 0


@contextmanager
def started_ranks() -> Iterator[Communicator]:
    """Yield the ranks that a launcher has started, of which the first one alone prints; without one, a rank alone.

    An exception in one of them ends all, with its exit code, once `run_command` has reported it.
    """
    size, rank = launched()
    if size == 1:
        yield ONE_RANK
        return
    ranks = connect(size, rank)
    try:
        if rank == 0:
            yield ranks
        else:
            with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
                yield ranks
    except BaseException as error:
        message = error_message(error, SMALLER_BATCH) if isinstance(error, Exception) else None
        code = 2 if message else 130 if isinstance(error, (KeyboardInterrupt, Terminated)) else 1
        atexit.register(end_all, ranks, code)
        if rank:
            time.sleep(PATIENCE)
        if rank and message:
            raise UserError(f"rank {rank}: {message}") from None
        raise


def connect(size: int, rank: int) -> MPIRanks:
    """All processes of the launcher. UserError, in the first of them, without mpi4py and the launcher's MPI library."""
    try:
        ranks = world()
        seen = ranks.size
        wrong = f"the MPI library of mpi4py sees {seen} of them: use the mpiexec of that library"
    except (ImportError, RuntimeError):
        seen, wrong = 0, "to be one run they need mpi4py and an MPI library: pip install -e '.[mpi]'"
    if seen == size:
        return ranks
    if rank:
        sys.exit(2)
    raise UserError(f"{size} processes of this command were started, and {wrong}")


def require_one_rank(ranks: Communicator, name: str) -> None:
    """Raise UserError for a flag that is about one process, if there are several."""
    if ranks.size > 1:
        raise UserError(f"{name}: is about one process: start it without mpiexec")


def end_all(ranks: Any, code: int) -> None:
    """End all ranks at once, without the lines that an MPI library prints about it."""
    sys.stderr.flush()
    time.sleep(PATIENCE / 2)  # until the launcher has passed on what was written: it drops the rest
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    ranks.abort(code)


def own_device(name: str, ranks: Communicator) -> tt.Device:
    """The device of this rank: of several on a machine each has another GPU, by its number among them."""
    device = tt.device(name)
    if ranks.size == 1 or not device.name.startswith("cuda"):
        return device
    count = device.xp.cuda.runtime.getDeviceCount()
    return tt.device(f"cuda:{ranks.local_rank % count}")


def between_devices(ranks: Communicator, device: tt.Device) -> Communicator:
    """What moves arrays of this device between the ranks: NCCL if each has a GPU of its own. UserError without it."""
    if ranks.size == 1 or not device.name.startswith("cuda"):
        return ranks
    if ranks.local_size > device.xp.cuda.runtime.getDeviceCount():
        return ranks  # NCCL refuses two ranks on one GPU
    nccl = find_nccl()
    if nccl is None:
        raise UserError(f"--device {device.name}: several ranks need NCCL: pip install nvidia-nccl-cu12")
    assert isinstance(ranks, MPIRanks)
    return NCCLRanks(ranks, nccl)
