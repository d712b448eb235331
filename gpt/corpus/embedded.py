"""Two corpora that need no download, because every Python carries them: `pydocs` and `stdlib`."""

import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

EMBEDDED = ("pydocs", "stdlib")
OUTSIDE_STDLIB = {"site-packages", "dist-packages", "__pycache__"}
# Some distributions omit the library's own tests; without them the corpus is nearly the same everywhere.
TESTS = {"test", "tests", "idle_test"}


def pydocs() -> str:
    """The Python language reference behind `help("topics")`. Its text depends on the Python version."""
    return "\n".join(topics[name] for name in sorted(topics))


def stdlib() -> list[Path]:
    """The source files of the standard library, sorted by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    excluded = OUTSIDE_STDLIB | TESTS
    return sorted(path for path in root.rglob("*.py") if excluded.isdisjoint(path.relative_to(root).parts))
