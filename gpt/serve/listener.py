"""The socket that a server listens on."""

import socket
from typing import Any

from gpt.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # addresses that only this machine reaches


def resolve(host: str, port: int) -> Any:
    """The first address of a host, as `socket.getaddrinfo` describes it. UserError if it has none."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError for names that are too long
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host}: is no address or host name ({reason}); 127.0.0.1 is this machine") from None


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. UserError if the port is in use or the address is not this machine's."""
    family, kind, protocol, _, address = resolve(host, port)
    try:
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host}: cannot be listened on ({error.strerror}); choose another") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"--port {port}: cannot be used on {host} ({error.strerror}); choose another") from None
    return listener


def url(host: str, listener: socket.socket) -> str:
    """The address of a server on this socket, for people."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
