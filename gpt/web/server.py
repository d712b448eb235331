"""Serves the page: to this machine alone unless asked otherwise, with nothing of Gradio's that the page does not need.

Gradio's server has many routes: uploads, downloads, a proxy, an interface for programs. Only ROUTES and FOLDERS can be
reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from gpt.serve.listener import LOOPBACK
from gpt.web.page import STYLE, Page

API = "/gradio_api"
ROUTES = {
    "GET": ("/config", "/theme.css", f"{API}/theme.css", "/favicon.ico", f"{API}/startup-events", f"{API}/queue/data"),
    "POST": (f"{API}/queue/join", f"{API}/run/predict", f"{API}/cancel", f"{API}/reset"),
}
ROUTES["HEAD"] = ROUTES["GET"]
FOLDERS = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/")  # read with GET
MAX_BODY = 8 << 20  # bytes of a request: a conversation, and far from a data set
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


class Gate:
    """ASGI middleware: refuses what the page does not need, and forbids the browser to load from elsewhere."""

    def __init__(self, app: Callable, hosts: tuple[str, ...]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or let the application do it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        status = self.refusal(scope)
        if status or scope["type"] != "http":
            await PlainTextResponse("refused", status or 404)(scope, receive, send)
            return

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        await self.app(scope, receive, send_with_policy)

    def refusal(self, scope: Any) -> int:
        """The status with which a request is refused, 0 if it is not."""
        headers, path = Headers(scope=scope), scope["path"]
        host, origin = headers.get("host", ""), headers.get("origin")
        # by these two, no other site that this browser has open can use the page, even if its name resolves to us
        if self.hosts and urlsplit(f"//{host}").hostname not in self.hosts:
            return 403
        if origin and urlsplit(origin).netloc != host:
            return 403
        length = headers.get("content-length", "0" if scope.get("method") != "POST" else "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return 413
        allowed = ("/", *ROUTES.get(scope.get("method"), ()))
        return 0 if path in allowed or (scope.get("method") == "GET" and path.startswith(FOLDERS)) else 404


def make_app(page: Page, host: str) -> Callable:
    """The ASGI application."""
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app, page.blocks, "/", footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False,
        enable_monitoring=False, **STYLE,
    )  # fmt: skip
    return Gate(app, LOOPBACK if host in LOOPBACK else ())


def make_server(app: Callable) -> uvicorn.Server:
    """The server, whose `run([socket])` answers requests until a signal ends it."""
    # Open pages keep a connection each, for which the end does not wait.
    return uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none"))
