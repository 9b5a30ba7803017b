"""Requests that are not for the relay: run by the FastAPI application as uvicorn's own protocol runs them.

Each is begun when all of its body is here. An answer that came before it would end the connection, and
as uvicorn writes the head nobody would tell the client, whose next request would be lost.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from proxy.wire.turn import CONTINUE

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

    from proxy.wire.server import Connection
    from proxy.wire.turn import Request

log = logging.getLogger("uvicorn.error")

BODY_BYTES = 1_000_000
"""The application's own routes take small bodies only."""


class AppTurn:
    """One request for the application (a `Turn`)."""

    def __init__(
        self,
        connection: Connection,
        request: Request,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
    ) -> None:
        if not config.loaded:
            config.load()
        self._connection, self._config, self._state = connection, config, state
        self._flow = FlowControl(connection.transport)
        self._request = request
        self._began = False
        self._cycle = RequestResponseCycle(
            scope=_scope(connection, request, config, app_state),
            transport=connection.transport,
            flow=self._flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=request.keep_alive,
            on_response=self._answered,
        )

    def begin(self) -> None:
        self._began = True
        if self._is_too_large():
            return
        if self._request.complete:
            self._run()
        elif self._request.expects_continue:
            self._connection.transport.write(CONTINUE)

    def data(self, data: bytes) -> None:
        if self._cycle.disconnected:
            return
        self._cycle.body += data
        if self._began:
            self._is_too_large()

    def _is_too_large(self) -> bool:
        if max(len(self._cycle.body), self._request.length or 0) <= BODY_BYTES:
            return False
        self._connection.refuse(self, 413, f"the request body is larger than {BODY_BYTES} bytes")
        return True

    def complete(self) -> None:
        if self._began and not self._cycle.disconnected:
            self._run()

    def _run(self) -> None:
        cycle = self._cycle
        cycle.more_body = False
        cycle.message_event.set()
        if self._connection.draining:
            cycle.keep_alive = False
        if self._connection.paused:
            self._flow.pause_writing()
        task = self._connection.loop.create_task(cycle.run_asgi(self._config.loaded_app))
        task.add_done_callback(self._state.tasks.discard)
        self._state.tasks.add(task)

    def gone(self) -> None:
        self._cycle.disconnected = True
        self._cycle.message_event.set()
        self._flow.resume_writing()

    def pause(self) -> None:
        self._flow.pause_writing()

    def resume(self) -> None:
        self._flow.resume_writing()

    def look(self, now_s: float) -> None:
        """The application's routes answer soon by themselves."""

    def stop(self, why: str) -> None:
        self.gone()

    def _answered(self) -> None:
        self._connection.done(self)


def _scope(connection: Connection, request: Request, config: Config, app_state: dict[str, Any]) -> HTTPScope:
    transport = connection.transport
    path = request.path
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": config.asgi_version, "spec_version": "2.3"},
        "http_version": "1.1" if request.http_11 else "1.0",
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
        "scheme": "http",
        "root_path": config.root_path,
        "headers": request.headers,
        "state": app_state.copy(),
        "method": request.method,
        "path": config.root_path + (urllib.parse.unquote(path) if "%" in path else path),
        "raw_path": config.root_path.encode("latin-1") + path.encode("latin-1"),
        "query_string": request.query,
    }
    return cast("HTTPScope", scope)
