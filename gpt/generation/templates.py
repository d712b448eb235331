"""Chat templates: how a model that was tuned to chat wants a conversation written.

A template is a Jinja2 program that comes with the model, in `chat_template.jinja` or `tokenizer_config.json`. It is run
in Jinja2's sandbox, in which it cannot reach files, modules or Python's internals, with the functions and settings that
transformers gives it (`apply_chat_template`), so that the text is the same. The sandbox bounds neither its time nor its
memory: nested loops may run for hours.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from gpt.errors import UserError, requires
from gpt.tokenizers.files import TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, companion_json, special_names

Message = Mapping[str, str]  # {"role": "system", "user" or "assistant", "content": text}


def template_source(companions: Mapping[str, str]) -> str | None:
    """The template among a tokenizer's files, if there is one; of several the one that is named "default"."""
    if TEMPLATE_FILE in companions:
        return companions[TEMPLATE_FILE]
    template = companion_json(companions, TOKENIZER_CONFIG_FILE).get("chat_template")
    if isinstance(template, list):  # of {"name", "template"}
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


class ChatTemplate:
    """A compiled template. UserError, which ends with `remedy`, if it is none, or if Jinja2 is missing."""

    def __init__(self, source: str, companions: Mapping[str, str], remedy: str = "--turn sets one of your own"):
        with requires("jinja2", "chat"):
            import jinja2.sandbox
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = to_json
        environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
        self._names, self._remedy = special_names(companions), remedy
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # Jinja2's, or of Python's compiler, which gets what Jinja2 makes of the template
            raise UserError(f"the model's chat template cannot be read ({reason(error)}); {remedy}") from None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation, up to where the model's next answer begins if it is asked for. UserError."""
        values: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        values |= self._names
        try:
            return self._template.render(values)
        except Exception as error:  # whatever the program does wrong
            raise UserError(f"the model's chat template fails ({reason(error)}); {self._remedy}") from None


def reason(error: Exception) -> str:
    """The first line of what an exception says, or its name, if it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    """JSON as transformers' filter writes it: without Jinja2's escapes for HTML."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **options)


def raise_exception(message: str) -> NoReturn:
    """What templates call for messages that they do not accept."""
    raise UserError(str(message))  # a number may have too many digits: `str` fails here, where `render` expects it


def strftime_now(format: str) -> str:
    """The time of day, for templates that tell the model the date."""
    return datetime.now().strftime(format)
