"""The ASGI application: what happens to a request between its first and its last byte.

ASGI (https://asgi.readthedocs.io) gives an application the request's head as `scope`, its body and the news that the
client has gone by `receive`, and takes the answer by `send`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import sys
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from gpt.serve.engine import Choice, Engine, Piece
from gpt.serve.errors import ApiError, overloaded
from gpt.serve.parameters import Request, Served, read_request, require_model
from gpt.serve.replies import DONE, Replies, event, model_object, usage_of

MAX_BODY = 1 << 20  # bytes of a request: far more than a context holds
BODY_SECONDS = 30.0  # within which it must have come
ERROR_SECONDS = 5.0  # that a client has to take an error
COMPLETIONS = {"/v1/completions": False, "/v1/chat/completions": True}  # {path: whether it is a chat}
MODELS = "/v1/models"
JSON, STREAM = b"application/json", b"text/event-stream; charset=utf-8"


class Gone(Exception):
    """The client has closed the connection."""


class Response:
    """The answer to a request, as it is being sent."""

    def __init__(self, send: Any):
        self._send, self.started = send, False

    async def start(self, status: int, kind: bytes, headers: dict[str, str]) -> None:
        """Send status and headers."""
        self.started = True
        lines = [(b"content-type", kind), (b"cache-control", b"no-store")]
        lines += [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})

    async def write(self, data: bytes, more: bool = True) -> None:
        """Send a part of the body; waits as long as the client does not read."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def json(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        """Send a whole answer."""
        data = json.dumps(content).encode()
        await self.start(status, JSON, {"content-length": str(len(data)), **(headers or {})})
        await self.write(data, more=False)

    async def error(self, error: ApiError) -> None:
        """Send an error: as the answer, or as the last event of one that has begun."""
        if self.started:
            await self.write(event(error.content()), more=False)
        else:
            await self.json(error.status, error.content(), error.headers)


class App:
    """The application. keys: of which a client must have one, if there are any; timeout: seconds for each request.

    hosts: the names by which the server may be addressed, any if empty.
    """

    def __init__(
        self, engine: Engine, served: Served, timeout: float, keys: Sequence[str] = (), hosts: Sequence[str] = ()
    ):
        self.engine, self.served, self.timeout, self.hosts = engine, served, timeout, hosts
        self.keys, self.created, self.open = [key.encode() for key in keys], int(time.time()), 0
        self._reader = ThreadPoolExecutor(1)  # one, since tokenizers are not made for several threads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        response = Response(send)
        try:
            if scope["type"] == "http":
                await self._limited(self._answer(scope, receive, response))
        except ApiError as error:
            with contextlib.suppress(asyncio.TimeoutError):  # a client that does not read, perhaps
                await asyncio.wait_for(response.error(error), ERROR_SECONDS)
        except Gone:
            return
        except Exception:
            traceback.print_exc(file=sys.stderr)
            await response.error(ApiError(500, "the request could not be answered: an error of the program"))

    async def _limited(self, answer: Any) -> None:
        """Await an answer for no longer than a request may take."""
        try:
            await asyncio.wait_for(answer, self.timeout)
        except asyncio.TimeoutError:
            raise ApiError(504, f"the request took longer than {self.timeout:g} seconds", code="timeout") from None

    async def _answer(self, scope: Any, receive: Any, response: Response) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_origin(headers)
        self._check_key(headers)
        path, method = scope["path"], scope["method"]
        is_model = path == MODELS or (path.startswith(f"{MODELS}/") and path != f"{MODELS}/")
        if not is_model and path not in COMPLETIONS:
            raise ApiError(404, f"unknown URL ({method} {path[:200]})", code="unknown_url")
        if method != (allowed := "GET" if is_model else "POST"):
            raise ApiError(405, f"{path[:200]} takes {allowed}, not {method}", headers={"allow": allowed})
        if is_model:
            await response.json(200, self._models(path))
            return
        if self.open >= self.engine.capacity:  # before anything is read
            raise overloaded()
        self.open += 1
        try:
            body = await read_body(receive)
            request = await asyncio.get_running_loop().run_in_executor(
                self._reader, read_request, body, COMPLETIONS[path], self.served
            )
            await self._complete(request, receive, response)
        finally:
            self.open -= 1

    def _check_origin(self, headers: dict[str, str]) -> None:
        """Refuse other sites that this machine's browser has open, even if their names resolve to us."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts and _hostname(host) not in self.hosts:
            raise ApiError(403, f"this server is not called {host[:200]}", code="wrong_host")
        if origin and origin.partition("://")[2] != host:
            raise ApiError(403, f"pages of {origin[:200]} may not use this server", code="wrong_origin")

    def _check_key(self, headers: dict[str, str]) -> None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.encode("latin-1") if scheme.lower() == "bearer" else b""
        if self.keys and not any(hmac.compare_digest(key, given) for key in self.keys):
            message = "a valid API key must be given, as in Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})

    def _models(self, path: str) -> dict[str, Any]:
        model = model_object(self.served, self.created)
        if path == MODELS:
            return {"object": "list", "data": [model]}
        require_model(path.removeprefix(f"{MODELS}/"), self.served)  # the path is not percent-encoded any more
        return model

    async def _complete(self, request: Request, receive: Any, response: Response) -> None:
        """Have the texts written and send them, until the client goes."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece]]()
        choices = []
        for i, (prompt, j) in enumerate((prompt, j) for prompt in request.prompts for j in range(request.n)):

            def tell(piece: Piece, i: int = i) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody listens
                    loop.call_soon_threadsafe(queue.put_nowait, (i, piece))

            choices.append(Choice(prompt, request.sampling, j, request.stops, self.served.tokenizer, tell))
        self.engine.submit(choices)
        pieces = _until_complete(queue, len(choices))
        reply = self._stream if request.stream else self._whole
        tasks = [asyncio.ensure_future(reply(request, pieces, response)), asyncio.ensure_future(_disconnected(receive))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for choice in choices:
                choice.cancelled = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _whole(self, request: Request, pieces: AsyncIterator, response: Response) -> None:
        """Answer with one object once all texts are complete."""
        texts = [text for text in request.echo for _ in range(request.n)]
        finishes: list[str | None] = [None] * len(texts)
        tokens = [0] * len(texts)
        async for ready in pieces:
            for i, piece in ready:
                texts[i] += piece.text
                finishes[i], tokens[i] = piece.finish, piece.tokens
        usage = usage_of(request, sum(tokens))
        await response.json(200, Replies(request, self.served).whole(texts, finishes, usage))

    async def _stream(self, request: Request, pieces: AsyncIterator, response: Response) -> None:
        """Answer with server-sent events, one for each piece."""
        replies, tokens = Replies(request, self.served), [0] * (len(request.prompts) * request.n)
        await response.start(200, STREAM, {})
        beginnings = [text for text in request.echo for _ in range(request.n)]
        first = [replies.beginning(i, text) for i, text in enumerate(beginnings) if request.chat or text]
        await response.write(b"".join(map(event, first)))
        async for ready in pieces:
            for i, piece in ready:
                tokens[i] = piece.tokens
            new = [replies.piece(i, piece.text, piece.finish) for i, piece in ready if piece.text or piece.finish]
            await response.write(b"".join(map(event, new)))
        last = event(replies.total(usage_of(request, sum(tokens)))) if request.include_usage else b""
        await response.write(last + DONE, more=False)


async def read_body(receive: Any) -> bytes:
    """The body of a request. ApiError if it is too large, which it is read to the end for, or takes too long."""

    async def read() -> bytes:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= MAX_BODY:
                parts.append(part)
        if size > MAX_BODY:  # said only now, as clients do not listen before they have sent everything
            raise ApiError(413, f"the body of the request has {size} bytes, but at most {MAX_BODY} are read")
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body of the request has not come within {BODY_SECONDS:g} seconds") from None


async def _until_complete(
    queue: asyncio.Queue[tuple[int, Piece]], count: int
) -> AsyncIterator[list[tuple[int, Piece]]]:
    """The pieces of `count` texts, as many at a time as are there. Raises the ApiError of a text that fails."""
    while count:
        ready = [await queue.get()]
        while not queue.empty():
            ready.append(queue.get_nowait())
        for _, piece in ready:
            if piece.error:
                raise piece.error
            count -= piece.finish is not None
        yield ready


async def _disconnected(receive: Any) -> None:
    """Raise Gone once the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise Gone


def _hostname(host: str) -> str | None:
    """The name in a Host header, None if it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
