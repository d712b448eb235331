"""Runs a page of docs/learn: its Python blocks from top to bottom, in one namespace, as a reader pastes them.

    python tests/learn/pages.py [PAGE ...]    # writes what is printed into the pages, and their pictures to images/

What a statement prints stands below it, in lines that begin with `#> `.
"""

import ast
import contextlib
import io
import os
import re
import runpy
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
LEARN = ROOT / "docs" / "learn"
PAGES = sorted(LEARN.glob("[0-9][0-9]-*.md"))
BLOCK = re.compile(r"(?<=^```python\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[(.*?)\]\((?!https?:)(.*?)\)")
MARK = "\x1e"  # "record separator": printed after each statement, to tell whose output is whose


def run(page: Path) -> str:
    """The text of the page with what its statements print now; pictures are written into the current folder."""
    text = page.read_text(encoding="utf-8")
    blocks = [[line for line in block.splitlines() if not line.startswith("#>")] for block in BLOCK.findall(text)]
    script: list[str] = []
    for lines in blocks:
        done = 0
        for end in statement_ends(lines):
            script += [*lines[done:end], f"print({MARK!r}, end='')"]
            done = end
    with tempfile.TemporaryDirectory() as folder, patch.object(tempfile, "tempdir", folder):  # for the page's own, too
        path = Path(folder) / f"{page.stem}.py"
        path.write_text("\n".join(script), encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            runpy.run_path(str(path), run_name="__main__")
    printed = iter(stdout.getvalue().split(MARK))
    shown = iter([with_output(lines, printed) for lines in blocks])
    return BLOCK.sub(lambda _: next(shown), text)


def statement_ends(lines: list[str]) -> list[int]:
    """The numbers of the lines that end a statement, counted from 1."""
    return [statement.end_lineno or 0 for statement in ast.parse("\n".join(lines)).body]


def with_output(lines: list[str], printed) -> str:
    """The lines of a block, each statement followed by its part of what was `printed`."""
    result, done = [], 0
    for end in statement_ends(lines):
        result += lines[done:end] + [f"#> {line}".rstrip() for line in next(printed).splitlines()]
        done = end
    return "\n".join(result + lines[done:]) + "\n"


def links(page: Path) -> list[tuple[bool, str, str]]:
    """(whether it is a picture, text, target) of each link to a file."""
    return [(mark == "!", text, target) for mark, text, target in LINK.findall(page.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    os.environ |= {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    sys.path[:0] = [str(ROOT), str(LEARN)]
    os.chdir(LEARN)
    for page in [Path(name) for name in sys.argv[1:]] or PAGES:
        page = LEARN / page.name
        page.write_text(run(page), encoding="utf-8")
