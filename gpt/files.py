"""Writing files that a crash cannot leave half-written.

Floor 5, above `errors`. A file is written beside its place, forced to the disk, then renamed, so under its
own name it is whole or absent. Used by `gpt.training.checkpoint` and `gpt.weights.load`; read those next.
"""

import json
import os
from contextlib import contextmanager

from safetensors import SafetensorError

from gpt.errors import UserError


@contextmanager
def writing(path):
    """Turn a failure to write `path` (disk full, no permission) into a UserError that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be written ({reason}); make room or choose another directory") from None


def sync(path):
    """Force a file, or the names in a directory, to the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows cannot open directories, and orders renames by itself
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path, write):
    """Replace `path` by what `write(temporary_path)` writes, at once or not at all. UserError if it cannot."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            write(beside)
            sync(beside)
            os.replace(beside, path)
            sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def replace_json(path, content):
    """Replace `path` by `content` as indented JSON, at once or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))
