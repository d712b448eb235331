"""`--freeze`: parameters that a training leaves as they are, chosen by their names.

A pattern is the beginning of a name, whole components of it, in which * stands for any one: `transformer.wte`,
`transformer.h.0`, `transformer.h.*.mlp`. A frozen parameter has no gradient, no optimizer state, and no buffer for
gradients in any process; blocks before the first one that is trained are not part of the graph at all.
"""

from collections.abc import Collection, Sequence
from typing import Any

from gpt.errors import UserError, did_you_mean


def split_patterns(text: str) -> list[str]:
    """The patterns in a list separated by commas. UserError for one that has nothing between its commas."""
    patterns = [pattern.strip() for pattern in text.split(",")]
    if text and not all(patterns):
        raise UserError(f"--freeze {text}: has a comma without a name beside it")
    return patterns if text else []


def matches(name: str, pattern: str) -> bool:
    """Whether a parameter's name begins with the components of a pattern."""
    components, wanted = name.split("."), pattern.split(".")
    return len(wanted) <= len(components) and all(
        want in ("*", have) for want, have in zip(wanted, components, strict=False)
    )


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Freeze the parameters that match. UserError for a pattern that matches none, or if nothing remains to train."""
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        frozen = [parameter for name, parameter in parameters.items() if matches(name, pattern)]
        if not frozen:
            raise UserError(
                f"--freeze {pattern}: no parameter's name begins with that"
                f"{did_you_mean(pattern, beginnings(list(parameters))) or ', such as ' + next(iter(parameters))}"
            )
        for parameter in frozen:
            parameter.requires_grad = False
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"--freeze {','.join(patterns)}: leaves nothing to train; freeze less")


def beginnings(names: Sequence[str]) -> list[str]:
    """All that names can begin with, up to whole components, each once."""
    found: dict[str, None] = {}
    for name in names:
        components = name.split(".")
        found |= {".".join(components[: i + 1]): None for i in range(len(components))}
    return list(found)


def frozen_blocks(name: str, patterns: Sequence[str], blocks: int) -> Collection[int]:
    """In which of so many blocks the parameter that each has as `name` is frozen; quick for any number of them."""
    frozen: set[int] = set()
    for pattern in patterns:
        number = [*pattern.split("."), "*", "*"][2]
        if matches(f"transformer.h.{number}.{name}", pattern):
            if number == "*":
                return range(blocks)
            if len(number) < 10 and number.isdecimal() and int(number) < blocks:
                frozen.add(int(number))
    return frozen
