"""The site: `sphinx-build -W docs docs/_build` (extra `docs`). Its pages are the Markdown files of this folder."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = html_title = "tinytensor"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
default_role = "code"  # `x` in a docstring is code, as in Markdown
autodoc_member_order = "bysource"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3


def from_plain_text(app, what, name, obj, options, lines):
    """Make a docstring reStructuredText: indented paragraphs are code, and a line `x: ...` starts a paragraph."""
    paragraphs = "\n".join(lines).strip("\n").split("\n\n")
    is_code = [paragraph.startswith(" ") for paragraph in paragraphs] + [False]
    for i, paragraph in enumerate(paragraphs):
        if not is_code[i]:
            text = re.sub(r"\n +", "\n", paragraph).replace("|", r"\|")
            text = re.sub(r"\n(?=\w+(, \w+)*: |Raises )", "\n\n", text)
            paragraphs[i] = text + ("\n\n::" if is_code[i + 1] else "")
    lines[:] = "\n\n".join(paragraphs).split("\n")


def setup(app):
    """What Sphinx calls to let this file extend it."""
    app.connect("autodoc-process-docstring", from_plain_text)
