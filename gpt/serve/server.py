"""uvicorn, which speaks HTTP, with an engine that begins and ends with it."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn

from gpt.serve.app import App


class Server(uvicorn.Server):
    """A server whose `run([socket])` answers requests until a signal ends it, first the texts and then itself."""

    def __init__(self, app: App):
        # Texts end with an error that their clients read at once; the rest is not waited for any longer.
        super().__init__(
            uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
        )
        self.engine = app.engine

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve, with the engine running. Raises what the signal that ended it stands for."""
        self.engine.start()
        try:
            super().run(sockets)
        finally:
            self.engine.end()
            self.engine.join()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: begin to end."""
        self.engine.end()
        super().handle_exit(sig, frame)
