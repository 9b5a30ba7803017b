"""What all client connections of a server share, and where each request of theirs goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from proxy.wire.limits import Limits
from proxy.wire.server import Connection
from proxy.wire.turn import Request, Turn


class Front:
    """What all connections of a server share; called by uvicorn to make one."""

    def __init__(
        self,
        limits: Limits,
        relayed: Callable[[str, str], bool],
        relay: Callable[[Connection, Request], Turn],
        refuse: Callable[[Connection, Request, int, str], Turn],
    ) -> None:
        """`relayed`: whether a method and path are for the relay; `relay` answers it; `refuse` answers with
        an error."""
        self.limits, self.relayed, self.relay, self.refuse = limits, relayed, relay, refuse
        self.connections: set[Connection] = set()
        self.elsewhere: Callable[[Connection, Request], Turn] | None = None
        """Answers what is not relayed, where there is no application here."""

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        return Connection(self, config, server_state, app_state, _loop or asyncio.get_running_loop())
