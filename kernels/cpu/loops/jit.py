"""How the loops are compiled, and cached on disk until any of their sources changes."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numba
from numba.core.caching import FunctionCache

from kernels.caches import make_private

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # as Python, the loops would be slow, and their BLAS calls would do nothing
    raise ImportError("NUMBA_DISABLE_JIT is set: the loops cannot be compiled")

HERE = Path(__file__).parent
# Sums may be reordered, which vector instructions need; NaN and infinity keep their meaning.
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}


def sources_digest(folder: Path) -> str:
    """A hash of all Python source in a folder."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = sources_digest(HERE)


class Cache(FunctionCache):
    """numba's cache on disk, which compiles again what it cannot read, and does without what it cannot write."""

    def load_overload(self, sig, target_context):
        """The compiled function, or None where it is missing, or its files are damaged or those of someone else."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling damaged bytes raises anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        """Write the compiled function, if the disk has room for it."""
        with suppress(Exception):  # of a damaged index that could not be flushed, anything again
            super().save_overload(sig, data)


def may_cache() -> bool:
    """Whether numba has a folder to cache in that is this user's alone, or is `__pycache__`, as safe as the source."""
    try:
        folder = Path(Cache(may_cache).cache_path)
        return folder.parent == HERE or make_private(folder)
    except (OSError, RuntimeError):  # there is none that can be written, or that can be made private
        return False


CACHED = may_cache()


def loop(function, signature=None):
    """Compile a pass on its first call with each combination of argument types; with a signature, at once and for that.

    numba caches the machine code next to the source and recompiles when the file that defines the loop changes, but not
    when a helper in another file does. The cached file is named after the function's qualified name, so that name gets
    the hash of all files of this package.
    """
    function.__qualname__ += "_" + SOURCES
    dispatcher = numba.njit(**OPTIONS)(function)
    if CACHED:
        dispatcher._cache = Cache(function)
    if signature is not None:
        dispatcher.compile(signature)
        dispatcher.disable_compile()
    return dispatcher


# For functions that loops call: their operations keep the order in which they are written.
helper = numba.njit(error_model="numpy", fastmath={"contract"})
