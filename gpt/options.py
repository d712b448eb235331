"""Settings as dataclasses whose fields carry a default, a help text and bounds.

Each such dataclass is a group of flags on a command line (`gpt.cli`), checks its own values, and can be saved as JSON.
"""

import dataclasses
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from gpt.errors import UserError, did_you_mean

BOUNDS = {"at least": operator.ge, "at most": operator.le, "above": operator.gt, "below": operator.lt}
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
TOO_LARGE = "fit into 64 bits"  # as the sizes of arrays do
DEVICE_HELP = "auto, cpu, cuda, cuda:N or emulated"
HUB = "hf:"  # begins a value that names something on the Hugging Face hub: hf:NAME, or hf:NAME@REVISION
COMMIT = re.compile("[0-9a-f]{40}")  # a revision that never changes, unlike a branch or a tag

T = TypeVar("T")


def option(default: Any, help: str, *, choices: Sequence[str] | None = None, **bounds: float) -> Any:
    """A dataclass field that is also a flag; `bounds` are `at_least`, `at_most`, `above`, `below`."""
    limits = {name.replace("_", " "): limit for name, limit in bounds.items()}
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "bounds": limits})


def flag(name: str) -> str:
    """The flag of a field: `n_embd` -> `--n-embd`."""
    return "--" + name.replace("_", "-")


def check_options(config: Any) -> None:
    """Raise UserError for the first field of a dataclass instance of the wrong type or outside its choices or bounds.

    Values that come from files may have any type.
    """
    for field in dataclasses.fields(config):
        value, choices = getattr(config, field.name), field.metadata["choices"]
        kind: Any = type(field.default)
        if type(value) is not kind and (kind, type(value)) != (float, int):
            raise UserError(f"{flag(field.name)} {value!r:.60}: must be {TYPE_NAMES[kind]}")
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise UserError(f"{flag(field.name)} {value}: must {TOO_LARGE}")
        if choices and value not in choices:
            hint = did_you_mean(str(value), choices)
            raise UserError(f"{flag(field.name)} {value}: must be one of {', '.join(choices)}{hint}")
        for bound, limit in field.metadata["bounds"].items():
            if not BOUNDS[bound](value, limit):  # a NaN fails every comparison, so it is refused too
                raise UserError(f"{flag(field.name)} {value}: must be {bound} {limit}")


def split_revision(name: str) -> tuple[str, str | None]:
    """The two parts of NAME@REVISION, None without a revision. UserError if one is empty."""
    repository, at, revision = name.partition("@")
    if not repository or (at and not revision):
        raise UserError(f"{HUB}{name}: must be {HUB}NAME, or {HUB}NAME@REVISION with a branch, tag or commit")
    return repository, revision or None


def field_names(cls: Any) -> list[str]:
    """Names of a dataclass's fields, in order."""
    return [field.name for field in dataclasses.fields(cls)]


def build(cls: type[T], settings: Mapping[str, Any]) -> T:
    """An instance of the dataclass `cls` from those entries of `settings` that name its fields."""
    return cls(**{name: settings[name] for name in field_names(cls) if name in settings})
