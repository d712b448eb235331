"""Folders of machine code: loaded only from where nobody else can have put it, since whoever writes there runs it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def make_private(folder: Path) -> bool:
    """Make a folder, or an existing one, accessible to this user alone; False if it belongs to another.

    If others could write to it until now, what is in it is deleted. Raises OSError if the folder cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not hasattr(os, "geteuid"):  # Windows, whose permissions are others
        return True
    status = folder.stat()
    if status.st_uid != os.geteuid():
        return False
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    if status.st_mode & 0o022:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return True
