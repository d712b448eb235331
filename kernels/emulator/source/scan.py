"""Where in a C++ source the statements are: enough of a parser to rewrite declarations, and no more.

Comments, strings and preprocessor lines are blanked first, every character where it was. Next: declarations.py.
"""

import re
from typing import NamedTuple

NOISE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'|^[ \t]*\#(?:[^\n\\]|\\.|\\\n)*""",
    re.DOTALL | re.MULTILINE,
)
AGGREGATE = re.compile(r"\b(?:struct|class|union|enum)\b")
TEMPLATE = re.compile(r"\btemplate\s*<[^{}]*?>\s*(?=[\w_])")
ALIGNMENT = re.compile(r"\b(?:__align__|alignas)\s*\((?:[^()]|\([^()]*\))*\)")


class Statement(NamedTuple):
    """A statement that ends in a semicolon, directly inside a function's braces."""

    start: int
    stop: int  # just past the semicolon
    kernel: bool  # inside a `__global__` function
    switch: bool  # directly inside a `switch`: nothing with a destructor may be declared there


def blank(code):
    """`code` with comments, strings and preprocessor lines replaced by spaces; newlines stay."""
    return NOISE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), code)


def _kind(head, outer):
    """What the brace after `head` opens: "block", "switch", "scope" (of declarations) or "value"."""
    head = ALIGNMENT.sub(" ", TEMPLATE.sub(" ", head)).strip()
    inside_function = outer in ("block", "switch")
    if not inside_function and re.search(r"\bnamespace\b[\w\s:]*$|\bextern\b\s*$", head):
        return "scope"
    ends_as_function = re.search(r"\)\s*(?:const|noexcept|mutable|override|->\s*[\w:<>*&\s]+|\s)*$", head)
    if AGGREGATE.search(head) and not ends_as_function and "=" not in head:
        return "scope"
    if head.startswith("switch"):
        return "switch"
    if ends_as_function or re.search(r"(?:\belse|\bdo|\btry)$|\][\s\w]*$", head) or (inside_function and not head):
        return "block"
    return "value" if head and (inside_function or "=" in head) else "block"


def statements(text):
    """The Statements of blanked `text`, in order."""
    found, stack = [], [("scope", False, 0)]  # (kind, inside a kernel, parentheses open outside)
    start, depth = 0, 0
    for match in re.finditer(r"[{}();:]", text):
        at, token = match.start(), match[0]
        kind, kernel, outer_depth = stack[-1]
        if token == "(":
            depth += 1
        elif token == ")":
            depth -= 1
        elif token == "{":
            head = text[start:at]
            opened = (
                _kind(head, kind)
                if depth == 0
                else ("block" if re.search(r"\)\s*(?:mutable\s*|->.*)?$|\]\s*$", head) else "value")
            )
            is_lambda = depth > 0 or "[" in head.split("(")[0]
            stack.append((opened, (kernel and not is_lambda) or "__global__" in head, depth))
            if opened != "value":
                start, depth = at + 1, 0
        elif token == "}":
            if len(stack) > 1:
                stack.pop()
                if kind != "value":
                    depth = outer_depth
                    start = at + 1
        elif token == ":" and depth == 0 and kind in ("block", "switch"):
            if (
                re.match(r"\s*(?:case\b[^:?]*|default\s*|\w+\s*)$", text[start:at])
                and text[at + 1 : at + 2] != ":"
                and text[at - 1] != ":"
            ):
                start = at + 1
        elif token == ";" and depth == 0 and kind != "value":
            if kind in ("block", "switch"):
                first = start + len(text[start:at]) - len(text[start:at].lstrip())
                found.append(Statement(first, at + 1, kernel, kind == "switch"))
            start = at + 1
    return found


def split(text):
    """`text` at its commas outside all brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def closing_parenthesis(text, opening):
    """The position of the parenthesis that closes the one at `opening`, or None."""
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return None
