"""What a request asks for: the parameters of OpenAI's interface, checked, with prompts as token ids."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt.errors import UserError
from gpt.generation.sampling import Sampling
from gpt.generation.stream import first_ids
from gpt.generation.templates import ChatTemplate, template_source
from gpt.serve.body import Body
from gpt.serve.errors import ApiError, refused
from gpt.tokenizers.load import Tokenizer

MAX_TEXTS, MAX_STOPS = 16, 4  # of a request
DEFAULT_TOKENS = 16  # of a completion, as in OpenAI's interface
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
NO_TEMPLATE = "the model has no chat template: it continues texts, so ask /v1/completions"


@dataclass(frozen=True)
class Served:
    """The model that requests are about, and the limits of a request.

    context: tokens of prompt and answer together; is_limited: whether the model's context is longer.
    max_tokens: tokens of an answer. max_texts: texts of all prompts together.
    """

    name: str
    tokenizer: Tokenizer
    context: int
    max_tokens: int
    max_texts: int
    is_limited: bool
    template: ChatTemplate | None


@dataclass(frozen=True)
class Request:
    """`n` continuations of each prompt. echo: what each text begins with."""

    chat: bool
    prompts: list[np.ndarray]
    echo: list[str]
    n: int
    sampling: Sampling
    stops: list[str]
    stream: bool
    include_usage: bool


def find_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    """A model's chat template, if it has one. Raises UserError."""
    source = template_source(tokenizer.companions)
    return source and ChatTemplate(source, tokenizer.companions, "/v1/completions does without it")  # type: ignore[return-value]


def read_request(content: bytes, chat: bool, served: Served) -> Request:
    """The request that a body makes. Raises ApiError."""
    body = Body(content)
    require_model(body.take("model", str), served)
    n = body.take_range("n", 1, 1, served.max_texts)
    stream, stream_options = body.take("stream", bool, False), body.take("stream_options", dict, {})
    if stream_options and (not stream or stream_options.keys() - {"include_usage"}):
        raise refused("stream_options", 'must be {"include_usage": true or false}, in a request with stream')
    stops, tokens = read_stops(body), read_max_tokens(body, chat, served)
    choices = {name: body.take(name, type(default), default) for name, default in SAMPLING.items()}
    seed = body.take("seed", int)
    source, echo = read_chat(body, served) if chat else read_prompts(body)
    body.refuse_rest()
    name = "messages" if chat else "prompt"
    if len(source) * n > served.max_texts:  # before they are encoded, which takes a while
        asked = f"{len(source)} prompts with {n} choices each (n)"
        raise refused(name, f"{asked} are more than the {served.max_texts} texts that a request may have here")
    prompts = [encode(name, text, chat, served.tokenizer) for text in source]
    tokens = fit(name, max(map(len, prompts)), tokens, served)
    try:
        sampling = Sampling(tokens=tokens, seed=secrets.randbits(63) if seed is None else seed, **choices)
    except UserError as error:  # which begins with the name of a flag
        flag, _, rest = str(error).removeprefix("--").partition(" ")
        raise refused(flag.replace("-", "_"), rest) from None
    beginnings = [decode(ids, served.tokenizer) if echo else "" for ids in source]
    return Request(chat, prompts, beginnings, n, sampling, stops, stream, bool(stream_options.get("include_usage")))


def require_model(name: str | None, served: Served) -> None:
    """Raise ApiError unless a request names the model that is served."""
    if not name:
        raise refused("model", f"must be given; this server has {served.name}")
    if name != served.name:
        message = f"model: {name[:200]} does not exist; this server has {served.name}"
        raise ApiError(404, message, "model", "model_not_found")


def read_stops(body: Body) -> list[str]:
    """The texts to end before."""
    stops = body.take_any("stop")
    stops = [] if stops is None else [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(type(s) is str and s for s in stops):
        raise refused("stop", f"must be a text, or a list of up to {MAX_STOPS}, none of them empty")
    return stops


def read_max_tokens(body: Body, chat: bool, served: Served) -> int | None:
    """The most tokens of an answer that were asked for, None for as many as fit."""
    names = ["max_tokens", "max_completion_tokens"] if chat else ["max_tokens"]
    found = {name: value for name in names if (value := body.take(name, int)) is not None}
    if len(found) > 1:
        raise refused(names[1], "is the new name of max_tokens: give one of them")
    for name, value in found.items():
        if not 1 <= value <= served.max_tokens:
            raise refused(name, f"is {value!s:.40}, must be from 1 to {served.max_tokens}")
        return value
    return None if chat else min(DEFAULT_TOKENS, served.max_tokens)


def read_chat(body: Body, served: Served) -> tuple[list[Any], bool]:
    """The text of a conversation in the model's own form, as the only prompt."""
    messages = body.take("messages", list)
    if not messages:
        raise refused("messages", "must be a list of at least one message")
    if served.template is None:
        raise ApiError(400, NO_TEMPLATE, "messages", "no_chat_template")
    try:
        return [served.template.render([read_message(f"messages[{i}]", m) for i, m in enumerate(messages)])], False
    except UserError as error:
        raise refused("messages", str(error)) from None


def read_message(name: str, message: Any) -> dict[str, str]:
    """A message with a text, or with parts that are texts."""
    if not isinstance(message, dict):
        raise refused(name, "must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise refused(f"{name}.role", f"must be one of {', '.join(ROLES)}")
    unknown = next((key for key, value in message.items() if key not in ("role", "content", "name") and value), None)
    if unknown is not None:
        raise refused(f"{name}.{unknown:.200}", "is not supported", "unsupported_parameter")
    if not isinstance(message.get("name"), str | None):
        raise refused(f"{name}.name", "must be a text")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        texts = [part.get("text") for part in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]
    if not isinstance(content, str):
        raise refused(f"{name}.content", "must be a text, or a list of parts of type text")
    return {"role": ROLES[role], "content": content}


def read_prompts(body: Body) -> tuple[list[Any], bool]:
    """The prompts of a completion, each a text or a list of token ids, and whether to repeat them."""
    prompt = body.take_any("prompt")
    echo = body.take("echo", bool, False)
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""], echo
    if isinstance(prompt, list) and prompt:
        if all(type(i) is int for i in prompt):
            return [prompt], echo
        if all(type(part) is str for part in prompt) or all(is_ids(part) for part in prompt):
            return prompt, echo
    raise refused("prompt", "must be a text, a list of texts, or token ids: a list of them, or a list of such lists")


def is_ids(part: Any) -> bool:
    """Whether something is a list of token ids."""
    return isinstance(part, list) and bool(part) and all(type(i) is int for i in part)


def encode(name: str, prompt: Any, chat: bool, tokenizer: Tokenizer) -> np.ndarray:
    """The token ids (T,) of a prompt, T at least 1. What looks like a special token is one in a chat alone."""
    if not isinstance(prompt, str):
        if not all(0 <= i < tokenizer.vocab_size for i in prompt):
            raise refused(name, f"must consist of token ids from 0 to {tokenizer.vocab_size - 1}")
        return np.array(prompt, np.int64)
    try:
        ids = tokenizer.encode(prompt, special=True) if chat else first_ids(tokenizer, prompt)
    except UserError as error:
        raise refused(name, str(error)) from None
    return np.array(ids if len(ids) else first_ids(tokenizer, ""), np.int64)


def decode(prompt: Any, tokenizer: Tokenizer) -> str:
    """The text of a prompt."""
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)


def fit(name: str, length: int, tokens: int | None, served: Served) -> int:
    """How many tokens an answer to a prompt of that length may have. ApiError if there is no room for it."""
    room = served.context - length
    if room >= (tokens or 1):
        return tokens or min(room, served.max_tokens)
    limit = "the server's --context is" if served.is_limited else "the model's context has"
    asked = f" and the answer may have {tokens}" if tokens else ""
    message = f"{limit} {served.context} tokens, but the prompt has {length}{asked}"
    raise refused(name, message, "context_length_exceeded")
