"""The relay: what all relayed requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from proxy.access_log import AccessLog
from proxy.account import Account, Accounting
from proxy.ask import Ask, header
from proxy.backends import Backend, Backends
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.refusal import Refusal, refuse
from proxy.settings import Settings
from proxy.telemetry import Span, Telemetry
from proxy.wire.front import Front
from proxy.wire.limits import Limits
from proxy.wire.pool import Pool
from proxy.wire.server import Connection
from proxy.wire.sweep import Watched, period_s, sweep
from proxy.wire.turn import Request, Turn

if TYPE_CHECKING:  # workers have no use for what it imports
    from proxy.access.gate import Gate


class Arriving(Protocol):
    """Who wants to know the trace of each request (`accounting.otlp.directory.Directory`)."""

    def arriving(self, traceparent: str | None) -> None: ...


class Relay:
    """Made inside a running loop. `front` is what uvicorn makes connections with."""

    def __init__(
        self,
        settings: Settings,
        backends: Backends,
        accountant: Accounting,
        relayed: Callable[[str, str], bool],
        *,
        telemetry: Telemetry | None = None,
        traces: Arriving | None = None,
        access_log: AccessLog | None = None,
        gate: Gate | None = None,
        exchange: Callable[[Relay, Connection, Request], Exchange] = Exchange,
    ) -> None:
        """`relayed`: whether a method and path are for an engine. `gate`: lets requests in; None: all.
        `exchange` makes what answers a request; that may have its own way of letting it in.
        """
        self.gate, self._body_user = gate, settings.access.body_user
        self._exchange = exchange
        self.backends, self.accountant = backends, accountant
        self.energy, self.timeouts = settings.energy, settings.timeouts
        self.pue = settings.pue
        self.max_body_bytes = int(settings.server.max_body_mb * 1_000_000)
        self._limits = Limits.of(settings.server)
        self.telemetry, self._traces, self._access_log = telemetry, traces, access_log
        self._pools: dict[Backend, Pool] = {}
        self.ended: ApiError | None = None
        """Why no request is taken any more."""
        self.front = Front(self._limits, relayed, self._open, refuse)

    def _open(self, connection: Connection, request: Request) -> Turn:
        if self.ended is not None:
            return Refusal(connection, request, self.ended)
        return self._exchange(self, connection, request)

    def end(self, why: ApiError) -> None:
        """Tell all clients that wait for an answer, and those that still ask, that there will be none."""
        self.ended = why
        for connection in list(self.front.connections):
            if isinstance(turn := connection.turn, Exchange):
                turn.fail(why)

    def pool(self, backend: Backend) -> Pool:
        """The connections to a backend."""
        pool = self._pools.get(backend)
        if pool is None:
            pool = self._pools[backend] = Pool(str(backend.url), connect_s=self.timeouts.connect_s)
        return pool

    def arriving(self, ask: Ask) -> Span | None:
        """A request is about to be opened and sent: its span, where one is exported."""
        traceparent = header(ask.headers, b"traceparent")
        span = None if self.telemetry is None else self.telemetry.begin(traceparent)
        if self._traces is not None:
            self._traces.arriving(traceparent if span is None else span.traceparent)
        return span

    def user_of(self, named: str) -> str | None:
        """The user_id of a request whose body names this user."""
        if self._body_user == "hash":
            return sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return named if self._body_user == "plain" else None

    def finished(self, account: Account, began_s: float) -> None:
        """A request has ended, in whatever way: the one place for those who watch requests end.

        Those that are accounted for are heard from the accountant by all who care.
        """
        if account.grant is not None:
            account.grant.end(account.record, account.usage)
        if self._access_log is not None and not account.kept:
            self._access_log.plain(
                request_id=account.ask.request_id,
                method=account.ask.method,
                route=account.ask.path,
                http_status=account.http_status,
                duration_s=monotonic() - began_s,
                t_us=self.accountant.clock.now_us(),
                backend=account.backend_id,
                tenant=account.ask.tenant,
                project=account.ask.project,
                user_id=account.ask.user_id,
                api_key=account.ask.api_key,
            )

    def use(self, settings: Settings) -> None:
        """Go by these timeouts, and show energy as these say, from now on; requests under way as well."""
        self.energy, self.timeouts = settings.energy, settings.timeouts
        for pool in self._pools.values():
            pool.connect_s = settings.timeouts.connect_s

    def forget(self, backend: Backend) -> None:
        """It has left and has nothing in flight any more: let go of the connections to it."""
        pool = self._pools.pop(backend, None)
        if pool is not None:
            pool.close()

    async def watch(self) -> None:
        """Keep the timeouts; runs until cancelled."""
        await sweep(self._watched, self._look_every_s)

    def _look_every_s(self) -> float:
        limits, timeouts = self._limits, self.timeouts
        return period_s(
            limits.head_s, limits.body_idle_s, timeouts.first_byte_s, timeouts.idle_s, timeouts.total_s
        )

    def _watched(self) -> list[Watched]:
        return [*self.front.connections, *self._pools.values()]

    async def close(self) -> None:
        """Cut off what is still under way, and let go of the engines."""
        for connection in list(self.front.connections):
            connection.stop("joulegate was stopped")
        for pool in self._pools.values():
            pool.close()
        await asyncio.sleep(0)  # the loop closes sockets in its next round
