"""`UserError`: what the user can put right, and the context managers that turn other libraries' errors into it."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input or environment; the message is one sentence: the thing, its value, the remedy."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` (did you mean X?)` for the name in `names` most similar to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]}?)" if matches else ""


@contextmanager
def requires(package: str, extra: str = "data") -> Iterator[None]:
    """Turn the failure to import an optional package into a UserError that says how to install it."""
    try:
        yield
    except ImportError:
        raise UserError(f"this needs {package}: pip install -e '.[{extra}]'") from None


@contextmanager
def reaching_hub(name: str, remedy: str) -> Iterator[None]:
    """Turn a failed download of `name` from the Hugging Face hub into a UserError that ends with the remedy."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{name}: cannot be downloaded from the Hugging Face hub ({reason}); {remedy}") from None
