"""The socket that clients connect to."""

from __future__ import annotations

import socket

BACKLOG = 2048


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError.

    `shared`: other processes of the same user may listen on the port as well, each by a call like this one;
    the kernel gives every new connection to one of them (SO_REUSEPORT, man 7 socket).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def listen_first(host: str, port: int) -> socket.socket:
    """A shared socket on a port that nobody else listens on now. Raises OSError."""
    with listen(host, port, shared=False) as alone:
        port = alone.getsockname()[1]
    return listen(host, port, shared=True)
