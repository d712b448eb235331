"""Which files a source consists of: those of a folder, in the layouts of `datasets` too, and those of this Python.

Two corpora need no download, because every Python carries them: `pydocs` and `stdlib`.
"""

import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from gpt.errors import UserError

EMBEDDED = ("pydocs", "stdlib")
OUTSIDE_STDLIB = {"site-packages", "dist-packages", "__pycache__"}
# Some distributions omit the library's own tests; without them the corpus is nearly the same everywhere.
TESTS = {"test", "tests", "idle_test"}

# How `datasets` keeps data: the description of a folder's tables, that of a folder of splits, and a split's tables.
DATASET_INFO, DATASET_DICT = ("dataset_info.json", "state.json"), "dataset_dict.json"
SPLIT_TABLE = re.compile(r"(?:^|[-_.])(train|validation|test)(?:-\d+-of-\d+(?:-[0-9a-f]+)?)?\.(?:parquet|arrow)$")
SHARD = re.compile(r"-\d+-of-\d+")


def pydocs() -> str:
    """The Python language reference behind `help("topics")`. Its text depends on the Python version."""
    return "\n".join(topics[name] for name in sorted(topics))


def stdlib() -> list[Path]:
    """The source files of the standard library, sorted by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    excluded = OUTSIDE_STDLIB | TESTS
    return sorted(path for path in root.rglob("*.py") if excluded.isdisjoint(path.relative_to(root).parts))


class Files:
    """The files below a path, found anew by each iteration, so that there is never a list of millions of them."""

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self) -> Iterator[Path]:
        return files(self.path)


def files(path: Path) -> Iterator[Path]:
    """Yield a file, or the files below a folder sorted by name; hidden ones are left out, and what `datasets` adds."""
    if not path.is_dir():
        yield path
        return
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    for child in (path / name for name in training_files(path, names)):
        if child.is_file() or (child.is_dir() and not child.is_symlink()):  # a link may lead back up
            yield from files(child)


def training_files(folder: Path, names: list[str]) -> list[str]:
    """Those of the names in a folder that are data; in the layouts of `datasets`, those of the training split."""
    if DATASET_DICT in names:
        if "train" not in names:
            raise UserError(f"{folder}: is a data set without a split named train; give the folder of another split")
        return ["train"]
    if DATASET_INFO[0] in names:
        caches = [name for name in names if name.startswith("cache-") and name.endswith(".arrow")]
        names = [name for name in names if name not in (*DATASET_INFO, *caches)]
        split_tables = {name: match[1] for name in names if (match := SPLIT_TABLE.search(name))}
    else:
        split_tables = {name: match[1] for name in names if SHARD.search(name) and (match := SPLIT_TABLE.search(name))}
    has_training = "train" in split_tables.values()
    return [name for name in names if not has_training or split_tables.get(name, "train") == "train"]
