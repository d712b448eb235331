"""Starts `train.py` under the launcher of the installed MPI library, if there is one."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MPIEXEC = shutil.which("mpiexec", path=os.path.dirname(sys.executable))
needs_mpi = pytest.mark.skipif(
    not MPIEXEC or not importlib.util.find_spec("mpi4py"), reason="needs mpi4py and MPICH: pip install -e '.[mpi]'"
)
BAR = re.compile(r"(step/s|s/step)[],]")
TINY = {
    "--steps": 40,
    "--n-layer": 1,
    "--n-head": 2,
    "--n-embd": 16,
    "--block-size": 8,
    "--batch-size": 4,
    "--grad-accum-steps": 2,
    "--shares": 8,
    "--dropout": 0.2,
    "--warmup-steps": 2,
    "--eval-batches": 3,
    "--optimizer": "muon",
    "--eval-interval": 20,
    "--checkpoint-interval": 10,
    "--device": "cpu",
    "--processes": 1,
    "--sample-interval": 0,
}


def flags(**changes) -> list[str]:
    """The flags of a tiny run, changed: n_layer=2."""
    settings = TINY | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [str(part) for pair in settings.items() for part in pair]


def start(size, *arguments, program="train.py", environment=None) -> subprocess.Popen:
    """Start a program on so many ranks; 0 for none, without a launcher."""
    launcher = [MPIEXEC, "-n", str(size)] if size else []
    command = [*launcher, sys.executable, str(ROOT / program), *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def finish(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the lines on stderr that are no progress bar and not the launcher's."""
    try:
        out, err = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and not BAR.search(line)]
    return process.returncode, out, lines
