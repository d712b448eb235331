"""Directories that one process at a time writes to, and new ones that appear complete or not at all."""

import errno
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gpt.errors import UserError
from gpt.files import sync, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
_descriptors: set[int] = set()  # of the locks that this process holds


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory; UserError with the id of the process that holds it already.

    The lock is a `flock` on a file in the directory, which the system releases when this process ends, however it ends;
    the file contains the process id. A missing directory is made, and removed again if it is empty at the end. Where
    the system or the file system has no locks, there is none.
    """
    missing = [path for path in (directory, *directory.parents) if not os.path.exists(path)]
    path = directory / LOCK_FILE
    try:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = _acquire(path)
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()  # while it is held: nobody else can hold a lock on this file
            _descriptors.discard(descriptor)
            os.close(descriptor)
    finally:
        for made in missing:
            with suppress(OSError):  # it is not empty
                made.rmdir()


def _acquire(path: Path) -> int:
    """The descriptor of the lock file, locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(descriptor, path)
            if os.fstat(descriptor).st_nlink:
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed it between our two calls: open the next one
    with suppress(OSError):  # a full disk: the lock holds without a process id in it, too
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    _descriptors.add(descriptor)
    return descriptor


def _flock(descriptor: int, path: Path) -> None:
    """Lock an open file; UserError if another process has."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode("ascii", "replace")
        raise UserError(
            f"{path.parent}: is in use by process {holder or 'unknown'}; wait until it has ended, or end it"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _close_in_child() -> None:
    """Leave the locks to the parent: a forked process that outlives it for a moment must not hold them."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def temporary_directory() -> TemporaryDirectory:
    """A directory that is removed when a `with` of it ends. UserError if the system has no place for one."""
    try:
        return TemporaryDirectory()
    except OSError as error:
        raise UserError(f"{error.strerror}: free some space, or set TMPDIR to another directory") from None


@dataclass
class NewDirectory:
    """Where a new directory is: beside its place while it is filled, afterwards in it."""

    path: Path


@contextmanager
def new_directory(places: Iterable[Path], name: str) -> Iterator[NewDirectory]:
    """Yield a directory to fill, beside `places`; once the block has ended, rename it to the first that is free.

    If the block raises, nothing is left. What a killed process left of the same `name` is removed.
    places: siblings that do not exist, or are empty directories. Raises UserError.
    """
    places = iter(places)
    place = next(places)
    for leftover in place.parent.glob(f".{name}.tmp-*"):
        with suppress(UserError), locked(leftover):  # in use: by a process that is filling it now
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = place.with_name(f".{name}.tmp-{os.getpid()}")
    new = NewDirectory(temporary)
    with locked(temporary):
        try:
            yield new
            with writing(place):
                for path in (temporary, *temporary.rglob("*")):
                    if path.is_dir():
                        sync(path)
                new.path = _rename(temporary, itertools.chain([place], places))
                (new.path / LOCK_FILE).unlink()
                sync(new.path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _rename(path: Path, places: Iterable[Path]) -> Path:
    """Rename a directory to the first of `places` that is free; returns it."""
    for place in places:
        try:
            os.rename(path, place)
            return place
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise UserError(f"{place}: exists and is not an empty directory; choose another")


def require_free(path: Path, name: str) -> None:
    """Raise UserError that begins with `name`, unless `path` is missing or an empty directory that can be replaced."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{name}: exists and is not an empty directory; choose another")
    if path.exists() and (path.samefile(os.curdir) or path.is_mount()):
        raise UserError(f"{name}: is the current directory or a mount point; name a new directory inside it")
