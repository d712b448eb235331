"""`train.py` with something that goes wrong in one rank: python faulty.py RANK FAULT flags of train.py."""

import errno
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import train  # noqa: E402
from gpt.cli import run_command  # noqa: E402
from gpt.distributed import agreement, launch  # noqa: E402
from gpt.distributed import run as runs  # noqa: E402
from gpt.training import checkpoint  # noqa: E402
from tinytensor.parallel import BatchParallel  # noqa: E402
from tinytensor.parallel.ranks import MPIRanks  # noqa: E402


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def missing(*_):
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "train.bin")


def unreadable(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO), "train.bin")


def at_call(owner, name, number, fault):
    """Let the call of this number of a function fail."""
    whole, calls = getattr(owner, name), []

    def replaced(*args, **options):
        calls.append(None)
        if len(calls) == number:
            fault()
        return whole(*args, **options)

    setattr(owner, name, replaced)


FAULTS = {
    "killed while computing": lambda: at_call(BatchParallel, "backward", 25, die),
    "killed while communicating": lambda: at_call(MPIRanks, "_all_to_all", 40, die),
    "killed while rank 0 writes": lambda: at_call(runs.FollowedRun, "save", 2, die),
    "killed while it writes": lambda: at_call(checkpoint, "_fingerprint", 3, die),
    "disk full": lambda: at_call(checkpoint, "_fingerprint", 3, full),
    "without data": lambda: at_call(runs, "open_tokens", 1, unreadable),
    "other code": lambda: setattr(agreement, "source_digests", lambda: {"tinytensor/tensor.py": "other"}),
    "a mistake": lambda: at_call(BatchParallel, "backward", 25, lambda: [][0]),
    "none": lambda: None,
}

rank, fault, *flags = sys.argv[1:]
if launch.launched()[1] == int(rank):
    FAULTS[fault]()
if __name__ == "__main__":
    sys.exit(run_command(train.main, flags))
