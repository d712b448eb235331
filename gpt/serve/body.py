"""The JSON object that a request consists of, and its parameters, each of which is taken once."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from gpt.errors import did_you_mean
from gpt.serve.errors import ApiError, refused

TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}
# Values that ask for nothing that would not be done anyway, and the types of parameters that do not change the answer.
# Which tool is called, and whether several, makes no difference without tools.
NO_OPS: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (False, True),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
}
WITHOUT_EFFECT = {"user": str, "metadata": dict, "safety_identifier": str, "service_tier": str}


class Body:
    """The parameters of a request; those that are null count as not given. ApiError if it is no JSON object."""

    def __init__(self, content: bytes):
        try:
            values = json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the body of the request is not valid JSON ({error})") from None
        if not isinstance(values, dict):
            raise ApiError(400, "the body of the request must be a JSON object")
        self._values = {name: value for name, value in values.items() if value is not None}
        self._known: list[str] = []

    def take(self, name: str, kind: Any, default: Any = None) -> Any:
        """A parameter of the type `kind`, or `default`. ApiError if it has another type; a float may be whole."""
        value = self.take_any(name)
        if value is None:
            return default
        if type(value) is not kind and (kind, type(value)) != (float, int):
            raise refused(name, f"must be {TYPES[kind]}")
        if kind is not float:
            return value
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number):  # as JSON's 1e400 is, too
            raise refused(name, "is too large for a number")
        return number

    def take_any(self, name: str) -> Any:
        """A parameter of any type, None if it was not given."""
        self._known.append(name)
        return self._values.pop(name, None)

    def take_range(self, name: str, default: int, at_least: int, at_most: int) -> int:
        """A whole number within limits."""
        value = self.take(name, int, default)
        if not at_least <= value <= at_most:
            raise refused(name, f"is {value!s:.40}, must be from {at_least} to {at_most}")
        return value

    def refuse_rest(self) -> None:
        """Raise ApiError for the first parameter that was not taken, unless it makes no difference."""
        for name, kind in WITHOUT_EFFECT.items():
            self.take(name, kind)
        for name, value in self._values.items():
            if any(_is_same(value, no_op) for no_op in NO_OPS.get(name, ())):
                continue
            hint = "" if name in NO_OPS else did_you_mean(name, self._known)
            raise refused(name, f"is not supported{hint}", "unsupported_parameter")


def _is_same(value: Any, other: Any) -> bool:
    """Whether two values of JSON are the same: 0 and 0.0 are, 0 and false are not."""
    return value == other and (isinstance(value, bool) == isinstance(other, bool))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
