"""How much memory this process and its forks may have: the least of what the machine, its cgroups and `ulimit` leave.

A prediction counts all that a process needs, so what this one holds already is added to what is free. A file that was
read stays in memory until something else needs the room, so cached files count as free.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import tinytensor as tt

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

UNLIMITED = 1 << 60  # cgroups of version 1 have a limit close to 2^63 where there is none


@dataclass(frozen=True)
class Limit:
    """Bytes that may be used, and the words that name whose they are."""

    bytes: int
    name: str


def host_limit(root: Path = Path("/")) -> Limit | None:
    """The limit of this process and its forks together; None where the system does not say. root: for tests."""
    own = _kilobytes(root / "proc/self/status")
    own_bytes = own.get("RssAnon", 0) + own.get("RssShmem", 0)
    memory = _kilobytes(root / "proc/meminfo")
    limits = [Limit(memory["MemAvailable"] + own_bytes, "this machine")] if "MemAvailable" in memory else []
    limits += [Limit(free + own_bytes, "the cgroup of this process") for free in _cgroup_room(root)]
    return min(limits, key=lambda limit: limit.bytes, default=None)


def process_limit(root: Path = Path("/")) -> Limit | None:
    """The limit of each process alone: what `ulimit -v` leaves of its address space. None if there is none."""
    if resource is None or sys.platform != "linux":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    own = _kilobytes(root / "proc/self/status")
    return Limit(max(0, soft - own.get("VmSize", 0) + own.get("VmRSS", 0)), "a process under this ulimit -v")


def device_limit(device: tt.Device) -> Limit | None:
    """The limit of the arrays on a GPU: what is free there, and what this process has. None on the CPU."""
    memory = device.memory()
    if memory is None:
        return None
    free, _ = device.xp.cuda.runtime.memGetInfo()
    return Limit(free + memory[0], device.name)


def resident() -> int:
    """Bytes of memory that this process holds, files it has mapped included; 0 where the system does not say."""
    return _kilobytes(Path("/proc/self/status")).get("VmRSS", 0)


def _cgroup_room(root: Path) -> Iterator[int]:
    """Yield what each cgroup of this process that has a limit leaves, from the topmost down to its own."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, limit_file, usage_file, prefix = "", "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            base, limit_file, usage_file, prefix = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        names = [name for name in path.split("/") if name not in ("", "..")]  # ".." leads out of a container
        for folder in accumulate(names, Path.joinpath, initial=root / "sys/fs/cgroup" / base):
            limit, usage = _number(folder / limit_file), _number(folder / usage_file)
            if limit is not None and limit < UNLIMITED:
                yield max(0, limit - max(0, (usage or 0) - _cached_files(folder / "memory.stat", prefix)))


def _cached_files(path: Path, prefix: str) -> int:
    """Bytes of cached files in a cgroup's `memory.stat`."""
    try:
        rows = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return sum(int(rows.get(f"{prefix}{state}_file", 0)) for state in ("active", "inactive"))


def _number(path: Path) -> int | None:
    """The number in a file; None if it is missing or has none, such as "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _kilobytes(path: Path) -> dict[str, int]:
    """The lines "Name:   123 kB" of a file in /proc, in bytes; none if there is no such file."""
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in words if len(row) == 3 and row[2] == "kB"}
