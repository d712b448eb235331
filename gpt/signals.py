"""Signals that ask a command to end: Ctrl-C, SIGTERM, and SIGHUP, which a terminal sends when it closes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def exit_signals() -> list[signal.Signals]:
    """The signals to act on; not SIGHUP where it is ignored, as under `nohup`, or does not exist."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals


class Terminated(BaseException):
    """SIGTERM or SIGHUP; not a KeyboardInterrupt, which need not end a conversation."""


def interrupt(number: int, _: object) -> None:
    """A signal handler that raises KeyboardInterrupt for Ctrl-C and Terminated for the others."""
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def handled(handler: Callable[..., Any]) -> Iterator[None]:
    """Within it, the signals call `handler`; in the main thread alone, since Python allows handlers nowhere else."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, handler) for number in exit_signals()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class GracefulExit:
    """True after the first signal, so that the loop can save and exit; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "GracefulExit":
        self._handled = handled(self._receive)
        self._handled.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handled.__exit__(*exception)

    def _receive(self, *_: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True

    def __bool__(self) -> bool:
        return self.received
