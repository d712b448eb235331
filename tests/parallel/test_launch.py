"""`mpiexec -n N python train.py`: one run with the bits of one process, which ends as one."""

import json
import os
import random
import signal
import sys
import time
from types import SimpleNamespace

import pytest

import tinytensor as tt
from gpt.distributed import launch
from gpt.errors import UserError
from gpt.files import sha256
from kernels.emulator import available
from tests.parallel.mpi import ROOT, finish, flags, needs_mpi, start
from tinytensor.parallel import ONE_RANK, own_cores
from tinytensor.parallel.nccl import NCCLRanks
from tinytensor.parallel.ranks import MPIRanks, OneRank

FILES = ("checkpoints/step-000040/model.safetensors", "checkpoints/step-000040/optimizer.safetensors")


def outcome(run):
    """What is the same in all runs: weights and state of the last step, the best model, and what was logged."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds")
        row.pop("tokens_per_second", None)  # none at step 0
    return [sha256(run / name) for name in (*FILES, "best/model.safetensors")], rows


def train(size, run, *more, **changes):
    """Train on so many ranks, to the end; returns the outcome."""
    arguments = ["--resume", run] if run.exists() else [*flags(**changes), "--out", run]
    code, out, lines = finish(start(size, *arguments, *more))
    errors = [line for line in lines if "no checkpoint was saved yet" not in line]  # as after an early kill
    assert (code, errors) == (0, [])
    assert out.count("run: ") == 1  # rank 0 alone prints
    return outcome(run)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The outcome of a run of one process that nothing happens to."""
    return train(0, tmp_path_factory.mktemp("runs") / "calm")


@needs_mpi
def test_any_number_of_ranks_has_the_same_bits(tmp_path, calm):
    for size in (1, 2, 4, 8):
        assert train(size, tmp_path / str(size)) == calm
    assert train(2, tmp_path / "both", processes=2) == calm  # two processes in each rank


@needs_mpi
def test_ranks_have_the_bits_of_the_processes_of_one_machine(tmp_path):
    """With products that are large enough to be divided, and as many cores as there are."""
    changes = {"steps": 3, "n_embd": 128, "block_size": 64, "batch_size": 16, "shares": 2, "eval_batches": 2}
    changes |= {"checkpoint_interval": 40, "eval_interval": 1, "log_interval": 1}
    files = {}
    for size, processes in ((0, 1), (0, 2), (2, 0), (2, 1)):
        run = tmp_path / f"{size}-{processes}"
        code, _, lines = finish(start(size, *flags(**changes, processes=processes), "--out", run))
        assert (code, lines) == (0, [])
        files[size, processes] = [sha256(path) for path in sorted(run.glob("checkpoints/*/*.safetensors"))]
    assert len(set(map(tuple, files.values()))) == 1
    assert len(files[0, 1]) == 2


@needs_mpi
@pytest.mark.skipif(not available(), reason="the emulated device needs a compiler")
def test_ranks_on_the_emulated_device_have_the_same_bits(tmp_path):
    changes = {"device": "emulated", "steps": 40, "eval_batches": 2, "grad_accum_steps": 1, "shares": 2}
    assert train(2, tmp_path / "2", **changes) == train(0, tmp_path / "0", **changes)


@needs_mpi
def test_killed_runs_resume_at_any_number_of_ranks_to_the_same_bits(tmp_path, calm, pytestconfig):
    random.seed(1)
    for number in range(30 if pytestconfig.getoption("--thorough") else 1):
        run = tmp_path / f"killed-{number}"
        sizes = [1, 2, 4, 8]
        random.shuffle(sizes)
        for size in sizes[:2]:
            process = start(size, *(["--resume", run] if run.exists() else [*flags(), "--out", run]))
            while not run.exists():
                assert process.poll() is None
                time.sleep(0.02)
            time.sleep(random.uniform(0, 1.5))
            if process.poll() is None:
                os.kill(random.choice(ranks_of(process.pid)), signal.SIGKILL)
            finish(process)
        assert train(sizes[2], run) == calm


def ranks_of(pid) -> list[int]:
    """The ids of the processes below a launcher that have no others below them."""
    below = children(pid)
    return [rank for child in below for rank in ranks_of(child)] if below else [pid]


def children(pid) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:
        return []


FAULTS = [  # rank, what happens, exit code, the only line, or None where it is the launcher that says something
    (1, "killed while computing", 9, None),
    (0, "killed while communicating", 9, None),
    (1, "killed while rank 0 writes", 9, None),
    (0, "killed while it writes", 9, None),
    (0, "disk full", 2, "error: RUN/checkpoints/step-000020: cannot be written (No space left on device); free some"),
    (1, "without data", 2, "error: rank 1: train.bin: Input/output error"),
    (1, "other code", 2, "error: train.py: rank 1 has nothing, where rank 0 has "),
    (1, "a mistake", 1, None),
]


@needs_mpi
@pytest.mark.parametrize(("rank", "fault", "expected", "line"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_what_ends_one_rank_ends_all_and_nothing_is_lost(tmp_path, calm, rank, fault, expected, line):
    run = tmp_path / "run"
    process = start(2, rank, fault, *flags(), "--out", run, program="tests/parallel/faulty.py")
    code, _, lines = finish(process)
    assert code == expected
    if line:
        assert len(lines) == 1
        assert lines[0].replace(str(run), "RUN").startswith(line)
    if fault == "a mistake":
        assert lines[-1] == "IndexError: list index out of range"
    assert train(1, run) == calm


@needs_mpi
def test_ranks_with_other_settings_are_refused(tmp_path):
    other = [":", "-n", "1", sys.executable, str(ROOT / "train.py"), *flags(lr=0.002), "--out", tmp_path / "run"]
    code, _, lines = finish(start(1, *flags(), "--out", tmp_path / "run", *other))
    assert (code, lines) == (
        2,
        ["error: the flag --lr: rank 1 has 0.002, where rank 0 has nothing; all ranks must be the same"],
    )


@needs_mpi
@pytest.mark.parametrize("whom", ["the launcher", "a rank"])
def test_sigterm_saves_first(tmp_path, whom):
    run = tmp_path / "run"
    process = start(2, *flags(steps=10**6, checkpoint_interval=10**6), "--out", run)
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid if whom == "the launcher" else ranks_of(process.pid)[-1], signal.SIGTERM)
    code, out, lines = finish(process)
    assert (code, lines) == (130, [])
    assert "; to resume: python train.py --resume " in out
    assert len(list((run / "checkpoints").iterdir())) == 1


@needs_mpi
def test_what_all_ranks_find_wrong_is_said_once(tmp_path):
    for wrong, message in ((["--n-embd", "x"], "--n-embd x: must be a whole number"), (["--plan"], "--plan: ")):
        code, _, lines = finish(start(3, *flags(), *wrong, "--out", tmp_path / "run"))
        assert code == 2
        assert len(lines) == 1
        assert lines[0].startswith(f"error: {message}")
    code, _, lines = finish(start(3, *flags(), "--out", tmp_path / "run"))
    expected = "error: --shares: 8 shares cannot be divided among 3 ranks, but among 1, 2, 4 or 8"
    assert (code, lines) == (2, [expected])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (1, 0)),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, (1, 0)),
        ({"PMI_SIZE": "8", "PMI_RANK": "3"}, (8, 3)),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, (4, 1)),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, (2, 1)),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (1, 0)),  # in the script of a job, which srun has not started
    ],
)
def test_the_launcher_is_recognized(monkeypatch, variables, expected):
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.launched() == expected


def test_several_processes_need_mpi4py(monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setattr(launch, "world", missing)
    with pytest.raises(UserError, match=r"4 processes of this command were started, and .* mpi4py .* '\.\[mpi\]'"):
        launch.connect(4, 0)
    with pytest.raises(SystemExit) as exit:  # one of them says it
        launch.connect(4, 1)
    assert exit.value.code == 2


def test_another_librarys_launcher_is_named(monkeypatch):
    class Alone:
        size = 1

    monkeypatch.setattr(launch, "world", Alone)
    with pytest.raises(UserError, match=r"4 processes .* mpi4py sees 1 of them: use the mpiexec of that library"):
        launch.connect(4, 0)


class FewGPUs:
    """A machine with so many GPUs, as `between_devices` sees it."""

    def __init__(self, count):
        self.name, self.xp = "cuda:0", SimpleNamespace()
        self.xp.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: count))


def test_nccl_connects_ranks_that_have_a_gpu_each(monkeypatch):
    two = MPIRanks.__new__(MPIRanks)
    two.size, two.local_size = 2, 2
    assert launch.between_devices(ONE_RANK, FewGPUs(1)) is ONE_RANK
    assert launch.between_devices(two, tt.device("cpu")) is two
    assert launch.between_devices(two, FewGPUs(1)) is two  # which they share
    monkeypatch.setattr(launch, "find_nccl", lambda: None)
    with pytest.raises(UserError, match="--device cuda:0: several ranks need NCCL: pip install nvidia-nccl-cu12"):
        launch.between_devices(two, FewGPUs(2))
    monkeypatch.setattr(launch, "find_nccl", lambda: "nccl")
    assert isinstance(launch.between_devices(two, FewGPUs(2)), NCCLRanks)


def test_ranks_divide_the_cores_and_gpus_of_a_machine(monkeypatch):
    class Second(OneRank):
        rank, size, local_rank, local_size = 3, 4, 1, 2

    monkeypatch.setattr("tinytensor.parallel.ranks.available_cores", lambda: 6)
    assert [own_cores(0, ONE_RANK), own_cores(0, Second()), own_cores(5, Second())] == [6, 3, 5]
    found = {"cuda": FewGPUs(4), "cuda:1": "the second"}
    monkeypatch.setattr(launch.tt, "device", lambda name: found[name])
    assert launch.own_device("cuda", Second()) == "the second"
