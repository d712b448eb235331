"""The JSON of the answers, as OpenAI's interface has it."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from gpt.serve.parameters import Request, Served

DONE = b"data: [DONE]\n\n"
Object = dict[str, Any]


class Replies:
    """The answers to one request: one object, or one for each piece of a stream."""

    def __init__(self, request: Request, served: Served):
        self.request, self.chat = request, request.chat
        kind = "chat.completion" if self.chat else "text_completion"
        if self.chat and request.stream:
            kind += ".chunk"
        name = ("chatcmpl-" if self.chat else "cmpl-") + secrets.token_hex(12)
        self._head: Object = {"id": name, "object": kind, "created": int(time.time()), "model": served.name}

    def whole(self, texts: list[str], finishes: list[str | None], usage: Object) -> Object:
        """All texts at once."""
        choices = [
            self._choice(
                i, {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}, finish
            )
            for i, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": usage}

    def beginning(self, i: int, text: str) -> Object:
        """The first object of text i in a stream."""
        return self._chunk(i, {"delta": {"role": "assistant", "content": ""}} if self.chat else {"text": text}, None)

    def piece(self, i: int, text: str, finish: str | None) -> Object:
        """What is new of text i."""
        delta = {"content": text} if text else {}
        return self._chunk(i, {"delta": delta} if self.chat else {"text": text}, finish)

    def total(self, usage: Object) -> Object:
        """The last object of a stream whose usage was asked for."""
        return {**self._head, "choices": [], "usage": usage}

    def _chunk(self, i: int, content: Object, finish: str | None) -> Object:
        usage = {"usage": None} if self.request.include_usage else {}
        return {**self._head, "choices": [self._choice(i, content, finish)], **usage}

    def _choice(self, i: int, content: Object, finish: str | None) -> Object:
        return {"index": i, **content, "logprobs": None, "finish_reason": finish}


def usage_of(request: Request, written: int) -> Object:
    """How many tokens a request took."""
    read = sum(map(len, request.prompts))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def model_object(served: Served, created: int) -> Object:
    """What there is to know about a model."""
    return {"id": served.name, "object": "model", "created": created, "owned_by": "tinytensor"}


def event(content: Object) -> bytes:
    """An object as a server-sent event."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
