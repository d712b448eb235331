"""Makes sure that all ranks are the same program, with the same settings, on the same kind of device."""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.errors import UserError
from gpt.files import sha256
from gpt.options import flag
from gpt.training.run import Run
from kernels.cpu.compiled import expects_loops
from tinytensor.parallel import Communicator

ROOT = Path(__file__).resolve().parents[2]  # of the packages
SOURCES = (".py", ".cu", ".cuh", ".h", ".cpp")


def require_agreement(ranks: Communicator, run: Run, changes: Mapping[str, Any]) -> None:
    """Raise UserError in every rank if one differs from the first, with what is different.

    changes: the flags that were given to this rank.
    """
    if ranks.size == 1:
        return
    own = json.dumps(description(run, changes))
    digests = ranks.exchange(hashlib.sha256(own.encode()).hexdigest())
    if len(set(digests)) == 1:
        return
    first, *others = map(json.loads, ranks.exchange(own))
    for rank, other in enumerate(others, 1):
        for name in first | other:
            if first.get(name) != other.get(name):
                found = f"{other.get(name, 'nothing')}, where rank 0 has {first.get(name, 'nothing')}"
                raise UserError(f"{name}: rank {rank} has {found}; all ranks must be the same")


def description(run: Run, changes: Mapping[str, Any]) -> dict[str, str]:
    """{what must be the same in all ranks: its value}: settings, versions, kind of device, source files."""
    settings = {**run.config()["model"], **run.config()["train"]}
    return {
        **{flag(name): str(value) for name, value in settings.items() if name != "device"},
        **{f"the flag {flag(name)}": str(value) for name, value in changes.items()},
        "device": tt.device(run.train.device).name.partition(":")[0],
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "compiled loops": "numba" if expects_loops() else "none",
        **source_digests(),
    }


def source_digests() -> dict[str, str]:
    """{source file: the beginning of its SHA-256} of this project."""
    paths = [ROOT / "train.py"]
    for package in ("gpt", "kernels", "tinytensor"):
        paths += sorted(path for path in (ROOT / package).rglob("*") if path.suffix in SOURCES)
    return {str(path.relative_to(ROOT)): str(sha256(path))[:12] for path in paths if path.exists()}
