"""How the loops are compiled, and cached on disk until any of their sources changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numba

from kernels.caches import make_private

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # as Python, the loops would be slow, and their BLAS calls would do nothing
    raise ImportError("NUMBA_DISABLE_JIT is set: the loops cannot be compiled")

HERE = Path(__file__).parent


def may_cache() -> bool:
    """Whether the folder that numba caches in is this user's alone, or is `__pycache__`, as safe as the source."""
    chosen = numba.njit(cache=True)(may_cache).stats.cache_path  # by numba; nothing is compiled
    folder = Path(str(chosen))
    return folder.parent == HERE or make_private(folder)


# Sums may be reordered, which vector instructions need; NaN and infinity keep their meaning.
OPTIONS = {
    "nogil": True,
    "cache": may_cache(),
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}


def sources_digest(folder: Path) -> str:
    """A hash of all Python source in a folder."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = sources_digest(HERE)


def loop(function, signature=None):
    """Compile a pass on its first call with each combination of argument types; with a signature, at once and for that.

    numba caches the machine code next to the source and recompiles when the file that defines the loop changes, but not
    when a helper in another file does. The cached file is named after the function's qualified name, so that name gets
    the hash of all files of this package.
    """
    function.__qualname__ += "_" + SOURCES
    return numba.njit(signature, **OPTIONS)(function)


# For functions that loops call: their operations keep the order in which they are written.
helper = numba.njit(error_model="numpy", fastmath={"contract"})
