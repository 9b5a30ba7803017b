"""A worker process: a relay on the port of the main process, which keeps its accounts.

It ends by itself when the main process is gone: without it nothing could be accounted for.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn
import uvloop

from accounting.clock import Clock
from proxy.backends import Backend, Backends
from proxy.background import background
from proxy.errors import BackendUnavailable
from proxy.exchange import Exchange
from proxy.listening import listen
from proxy.paths import relayed
from proxy.relay import Relay
from proxy.reload import Reloader
from proxy.settings import Settings
from proxy.wire.pool import UnixPool
from proxy.workers.asking import Door
from proxy.workers.channel import Channel
from proxy.workers.client import Arrivals, RemoteAccountant, RemoteLog
from proxy.workers.forward import Forward
from proxy.workers.messages import (
    Admitted,
    Changed,
    Counts,
    Drain,
    Go,
    Hello,
    Kept,
    Known,
    Loads,
    Refused,
    Setup,
    ToWorker,
    Up,
    unpacked,
)

log = logging.getLogger(__name__)

TICK_S = 0.05
"""As the accountant's."""

GONE_S = 2.0
"""Once the main process is gone, clients get so long to take their errors."""


def run(pipe: socket.socket) -> int:
    """Work until told to end; the exit status: 1 where the main process is gone."""
    form = f"%(asctime)s %(levelname)s %(name)s[{os.getpid()}]: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(pipe))


async def _work(pipe: socket.socket) -> int:
    worker = Worker()
    worker.channel = channel = await Channel.over(pipe, ToWorker, worker.heard, worker.main_gone)
    try:
        await worker.work()
    except ConnectionError as error:
        log.critical("this worker ends: %s", error)
    finally:
        worker.closing = True
        channel.close()
    await channel.closed.wait()
    return 1 if worker.gone else 0


class _Server(uvicorn.Server):
    """Takes connections for the relay. Ends at SIGTERM; about SIGINT the main process decides."""

    def __init__(self, relay: Relay, settings: Settings, up: Callable[[], None]) -> None:
        """`up` is called once it listens."""
        config = uvicorn.Config(
            _no_application,
            http=cast(type[asyncio.Protocol], relay.front),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=math.ceil(settings.server.drain_s),
        )
        super().__init__(config)
        self._up = up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM:
            self.should_exit = True

    def end_soon(self) -> None:
        """Listen no longer; clients get `GONE_S` to take what was written for them."""
        for listening in self.servers:
            listening.close()
        self.config.timeout_graceful_shutdown = math.ceil(GONE_S)
        self.should_exit = True


class Worker:
    """`heard` and `main_gone` are the channel's; `work` returns when the worker has been told to end."""

    channel: Channel[ToWorker]

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.gone = self.closing = False
        """The main process is; this one is about to be."""
        self._setup: asyncio.Future[Setup] = loop.create_future()
        self._go: asyncio.Future[Go] = loop.create_future()
        self._told: tuple[Loads, Counts] | None = None
        self._server: _Server | None = None
        self._accountant: RemoteAccountant
        self._backends: Backends
        self._door: Door
        self._relay: Relay
        self._reloader: Reloader
        self._settings: Settings

    async def work(self) -> None:
        """Raises ConnectionError where the main process is gone before anything was begun."""
        setup = await self._setup
        self._build(setup)
        self._server = server = _Server(self._relay, self._settings, self._up)
        self.channel.say([Hello()])
        self._accountant.begin((await self._go).handle)
        listener = listen(setup.host, setup.port, shared=True)
        _tune_collector()
        async with background(self._tick(), self._relay.watch(), self._backends.watch()):
            await server.serve(sockets=[listener])
            await self._relay.close()
        self._accountant.tick(self._news())
        if self.gone:
            _clear_up(Path(setup.inside))

    def _build(self, setup: Setup) -> None:
        settings = self._settings = unpacked(setup.settings)
        clock = Clock(setup.offset_us)
        self._accountant = accountant = RemoteAccountant(setup.source, clock, self.channel.say)
        self._backends = backends = Backends(
            [Backend.of(one, [], settings.health) for one in settings.backends],
            settings.routing,
            settings.health,
            settings.retry,
        )
        traced = settings.telemetry.enabled or settings.otlp.enabled
        arrivals = Arrivals(settings.telemetry, accountant) if traced else None
        self._door = door = Door(accountant)
        access_log = RemoteLog(settings.access_log, accountant)
        self._relay = relay = Relay(
            settings,
            backends,
            accountant,
            relayed(setup.own, backends),
            telemetry=arrivals,
            traces=arrivals,
            access_log=access_log,
            exchange=door.exchange if settings.access.enabled else Exchange,
        )
        backends.drained = relay.forget
        inside = UnixPool(setup.inside, connect_s=settings.timeouts.connect_s)
        relay.front.elsewhere = lambda connection, request: Forward(inside, connection, request)

        def use_backends(new: Settings) -> list[str]:
            backends.apply(new.backends, {one.id: [] for one in new.backends})
            return []

        self._reloader = Reloader(
            settings,
            lambda: self._settings,
            {
                "backends": use_backends,
                "routing": backends.use_settings,
                "health": backends.use_settings,
                "retry": backends.use_settings,
                "timeouts": relay.use,
                "energy": relay.use,
                "access_log": lambda new: access_log.use(new.access_log),
            },
        )

    def _up(self) -> None:
        self.channel.say([Up()])

    async def _tick(self) -> None:
        while True:
            self._accountant.tick(self._news())
            await asyncio.sleep(TICK_S)

    def _news(self) -> list[Loads | Counts]:
        """What the main process is to know of the backends, as far as it has changed."""
        known = [*self._backends.all, *self._backends.leaving]
        counts = {b.id: (b.failed, b.retried, b.passive.ejections) for b in known}
        news = Loads({b.id: b.load for b in known}), Counts(counts, self._backends.budget.refused)
        told, self._told = self._told, news
        return [one for one in news if told is None or one not in told]

    # what the main process says

    def heard(self, messages: list[ToWorker]) -> None:
        for message in messages:
            match message:
                case Kept():
                    self._accountant.kept(message)
                case Known() | Admitted() | Refused():
                    self._door.heard(message)
                case Loads():
                    self._take_loads(message)
                case Changed():
                    self._settings = unpacked(message.settings)
                    self._reloader.reload()
                case Drain():
                    if self._server is not None:
                        self._server.should_exit = True
                case Setup():
                    self._setup.set_result(message)
                case Go():
                    self._go.set_result(message)

    def _take_loads(self, others: Loads) -> None:
        for backend in self._backends.all:
            backend.elsewhere(*others.loads.get(backend.id, (0, 0)))
        for backend in self._backends.leaving:
            backend.elsewhere(0, 0)

    def main_gone(self) -> None:
        if self.closing:
            return
        self.gone = True
        for future in (self._setup, self._go):
            if not future.done():
                future.set_exception(ConnectionError("the main process is gone"))
                future.exception()  # seen: perhaps nobody waits for it
        if self._server is None or not self._server.started:
            return
        log.critical("the main process is gone: nothing can be accounted for any more, this worker ends")
        self._accountant.main_gone()
        self._relay.end(BackendUnavailable("joulegate's main process is gone", retry_after_s=1))
        self._server.end_soon()


def _clear_up(inside: Path) -> None:
    """Remove the main process' socket and its directory, as it could not. Other workers do the same now."""
    with suppress(FileNotFoundError):
        inside.unlink()
        inside.parent.rmdir()


def _tune_collector() -> None:
    """As the main process does once it is up: the relay makes no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _no_application(scope: object, receive: object, send: object) -> None:
    """What is not relayed goes to the main process: nothing comes here."""
