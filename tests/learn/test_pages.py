"""The pages of docs/learn print what they say, write the pictures that they show, and link to what exists."""

import ast
import re

import pytest

from kernels.emulator import MISSING, available
from tests.learn.pages import BLOCK, LEARN, PAGES, ROOT, links, run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_prints_what_it_says(page, tmp_path, monkeypatch):
    """To write what it prints into the page: python tests/learn/pages.py"""
    if any("emulat" in block for block in BLOCK.findall(page.read_text(encoding="utf-8"))) and not available():
        pytest.skip(MISSING)
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(LEARN)  # for stories.py
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the commands that a page starts
    assert run(page) == page.read_text(encoding="utf-8")
    for is_picture, _, target in links(page):
        assert not is_picture or (tmp_path / target).stat().st_size > 0


@pytest.mark.parametrize("page", [*PAGES, LEARN / "README.md"], ids=lambda page: page.stem)
def test_what_a_page_links_to_exists(page):
    """A link to a Python file can name what is in it: [`Exp.vjp`](../../tinytensor/ops/elementwise.py)."""
    for _, text, target in links(page):
        path = (LEARN / target.partition("#")[0]).resolve()
        assert path.exists(), f"{page.name} links to {target}"
        name = re.fullmatch(r"`([\w.]+)`", text)
        if path.suffix == ".py" and name and name[1] != path.name:
            assert defines(ast.parse(path.read_text()), name[1].split(".")), f"there is no {name[1]} in {target}"


def test_the_check_of_names_finds_what_is_missing():
    tree = ast.parse("class A:\n    def f(self): pass\nB = 1\n")
    assert defines(tree, ["A", "f"])
    assert defines(tree, ["B"])
    assert not defines(tree, ["A", "g"])
    assert not defines(tree, ["f"])


def test_output_stands_below_its_statement(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("A\n\n```python\nfor i in 1, 2:\n    print(i)\n#> old\nx = 1\n```\n\n```python\nprint(x)\n```\n")
    loop = "for i in 1, 2:\n    print(i)\n#> 1\n#> 2\nx = 1\n"
    assert run(page) == f"A\n\n```python\n{loop}```\n\n```python\nprint(x)\n#> 1\n```\n"


def test_pages_are_numbered_without_gaps_and_listed():
    assert [int(page.name[:2]) for page in PAGES] == [*range(1, len(PAGES) + 1)]
    listed = [target for _, _, target in links(LEARN / "README.md") if re.match(r"\d\d-", target)]
    assert listed == [page.name for page in PAGES]


def defines(tree: ast.AST, names: list[str]) -> bool:
    """Whether `tree` has a class, function or constant names[0], with names[1] in it, ..."""
    if not names:
        return True
    for node in ast.iter_child_nodes(tree):
        targets = node.targets if isinstance(node, ast.Assign) else ()
        here = {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}
        if names[0] in here and defines(node, names[1:]):
            return True
    return False
