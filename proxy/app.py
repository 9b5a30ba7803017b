"""The application: FastAPI for joulegate's own routes, the relay for everything else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from uuid import uuid4

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from accounting.clock import Clock
from accounting.diagnosis.asking import Asking
from accounting.figures import Figures
from accounting.journal import Journal
from accounting.otlp.directory import Directory
from accounting.otlp.receiver import Receiver
from accounting.service import Accountant
from accounting.store.engine import connect
from accounting.store.glance import GlanceReader
from accounting.store.opening import open_writer
from accounting.store.queries import StoreReader
from accounting.store.retention import Keeper
from proxy import errors, openapi, page
from proxy.access.access import Access
from proxy.access.surface import Surface, is_open
from proxy.access_log import AccessLog
from proxy.ask import header
from proxy.backends import Backend, Backends
from proxy.background import background
from proxy.billing import billing_of
from proxy.cors import Cors
from proxy.engine_metrics import EngineMetrics, Pace
from proxy.heads import Heads
from proxy.media.running import jobs_running
from proxy.media.xdit import adapters
from proxy.meters import build
from proxy.metrics import Metrics
from proxy.observers import Observers
from proxy.paths import own_paths, relayed
from proxy.relay import Relay
from proxy.reload import BackendsChange, Reloader, declaration, gpus_of
from proxy.request_ids import RequestIds
from proxy.routes import diagnosis, energy, glance, keys, models, ops, usage, videos
from proxy.settings import Settings
from proxy.span_export import exporting
from proxy.state import State, Watcher
from proxy.tallies import Shown
from proxy.telemetry import Telemetry
from proxy.workers.crew import Crew
from proxy.workers.peer import Hearers

log = logging.getLogger(__name__)

SETTLE_S = 3.0
"""At a stop, requests that have ended get this long for their final figures."""


def create_app(
    settings: Settings, gpus: Sequence[str], *, version: str, load: Callable[[], Settings] | None = None
) -> FastAPI:
    """`gpus`: UUIDs of all GPUs that the meter found, for backends set to `all`. `load` reads the settings
    again; once it has started, `app.state.reloader` takes them in.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start(app, settings, gpus, load or (lambda: settings), stack)
            yield

    app = FastAPI(
        title="joulegate",
        version=version,
        summary="An OpenAI-compatible proxy that tells what each request cost in joules",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    errors.install(app)
    app.add_middleware(Surface, settings=settings.access, gate=lambda: app.state.access.gate)
    app.add_middleware(RequestIds)
    app.add_middleware(Cors)
    app.add_middleware(Heads)
    of_the_store = openapi.errors_of(energy.StoreUnavailable)
    app.include_router(ops.router)
    app.include_router(models.router)
    app.include_router(videos.router)
    for router in (glance.router, energy.router, diagnosis.router, usage.router, keys.router):
        app.include_router(router, responses=of_the_store)
    page.install(app)
    openapi.install(app, keys=settings.access.enabled, is_open=partial(is_open, settings.access))
    app.mount("/", partial(_nothing, openapi.methods(app)))
    return app


async def _nothing(
    methods: Callable[[str], Sequence[str]], scope: Scope, receive: Receive, send: Send
) -> None:
    """What is neither joulegate's nor the engine's. (The relay's requests do not come here, see wire/.)"""
    path, method = scope["path"], scope["method"]
    error: errors.ApiError = errors.NotFound(f"there is no {path} here")
    if ways := methods(path):
        error = errors.MethodNotAllowed(f"{path} cannot be asked with {method}", allowed=ways)
    request_id = header(scope["headers"], b"x-request-id") or str(uuid4())
    answer = JSONResponse(error.body(), error.status, {**error.headers(), "x-request-id": request_id})
    await answer(scope, receive, send)


async def _start(
    app: FastAPI,
    settings: Settings,
    gpus: Sequence[str],
    load: Callable[[], Settings],
    stack: AsyncExitStack,
) -> None:
    """Bring everything up, in the order in which one needs the other; the stack takes it down again."""
    adapted = await stack.enter_async_context(adapters(settings))
    settings = adapted(settings)
    clock = Clock.anchored_now()
    metrics = Metrics(settings.metrics)
    watcher = Watcher(metrics)
    access_log, telemetry = AccessLog(settings.access_log), Telemetry(settings.telemetry)
    backends = Backends(
        [Backend.of(b, gpus_of(b, gpus), settings.health) for b in settings.backends],
        settings.routing,
        settings.health,
        settings.retry,
    )
    engine = connect(settings.store_url)
    stack.callback(engine.dispose)
    journal = Journal(settings.data_dir / "journal", fsync=settings.journal.fsync)
    writer = open_writer(engine, settings.data_dir / "unstored", journal)
    stack.callback(writer.close, 10.0)
    kept = settings.store
    keeper = Keeper(
        engine, requests_days=kept.requests_days, books_days=kept.books_days, facts_days=kept.facts_days
    )
    stack.callback(keeper.close)
    traces = Directory() if settings.otlp.enabled else None
    listener = Observers(watcher, access_log, telemetry, *([] if traces is None else [traces]))
    keep = settings.journal.keep_segments
    access = Access(settings, engine, journal, writer, clock) if settings.access.enabled else None
    sink = writer if access is None else access.sink
    if access is not None:
        listener.add(access.spending)
    accountant = Accountant(
        clock,
        journal,
        sink,
        version=app.version,
        listener=listener,
        keep_segments=keep,
        later=asyncio.get_running_loop().call_soon,
    )
    telemetry.provisional = lambda handle: accountant.ledger.provisional(handle)
    again = accountant.recover()
    if again:
        log.info("replayed the journal: %d records and book entries made again", again)
    app.state.access = access
    if access is not None:
        access.recovered(accountant)
    for configured, backend in zip(settings.backends, backends.all, strict=True):
        now_us = accountant.clock.now_us()
        accountant.declare(declaration(configured, backend.gpus, now_us, traces=settings.otlp.enabled))
    wanted = sorted({gpu for backend in backends.all for gpu in backend.gpus})
    looking_after = jobs_running(app, settings, accountant, backends, engine, listener)
    await stack.enter_async_context(looking_after)
    meter = build(settings, wanted, accountant.clock)
    if meter is not None:
        stack.callback(meter.close)
        accountant.attach(meter)
        meter.start()
    relay = Relay(
        settings,
        backends,
        accountant,
        relayed(own_paths(app), backends),
        telemetry=telemetry,
        traces=traces,
        access_log=access_log,
        gate=None if access is None else access.gate,
    )
    backends.drained = relay.forget
    app.state.reloader = Reloader(
        settings,
        lambda: adapted(load()),
        {
            "backends": BackendsChange(
                backends,
                gpus,
                frozenset(wanted),
                accountant.declare,
                accountant.clock,
                settings.otlp.enabled,
            ),
            "routing": backends.use_settings,
            "health": backends.use_settings,
            "retry": backends.use_settings,
            "timeouts": relay.use,
            "energy": relay.use,
            "access_log": lambda new: access_log.use(new.access_log),
        },
    )
    workers = settings.server.workers
    app.state.crew = None
    if workers > 1:
        gate = None if access is None else access.gate
        hearers = Hearers(accountant, backends, telemetry, traces, access_log, app.version, gate)
        app.state.crew = Crew(workers - 1, hearers, own_paths(app), lambda: app.state.reloader.current)
        metrics.registry.register(Shown(app.state.crew.metrics))
    app.state.front = relay.front
    app.state.pue = settings.pue
    app.state.billing = billing_of(settings, engine)
    app.state.glance = GlanceReader(engine)
    app.state.diagnosis = Asking(engine, accountant, asyncio.get_running_loop())
    app.state.energy = Figures(accountant, StoreReader(engine), asyncio.get_running_loop())
    app.state.joulegate = State(backends, accountant, writer, metrics, watcher)
    metrics.observe(accountant, backends, access_log, telemetry)
    if access is not None:
        metrics.registry.register(Shown(access.metrics))
    stack.enter_context(access_log.writing())
    if settings.telemetry.enabled:
        await stack.enter_async_context(exporting(telemetry, settings.telemetry, app.version))
    if access is not None:
        stack.callback(access.close)
    stack.callback(accountant.close)
    stack.push_async_callback(_settle, accountant)
    stack.push_async_callback(relay.close)
    await stack.enter_async_context(background(_tick(accountant)))
    await stack.enter_async_context(background(relay.watch()))
    if access is not None:
        await stack.enter_async_context(background(access.run()))
    await stack.enter_async_context(background(backends.watch()))
    await _hear_engines(settings, backends, accountant, metrics, traces, stack)


async def _hear_engines(
    settings: Settings,
    backends: Backends,
    accountant: Accountant,
    metrics: Metrics,
    traces: Directory | None,
    stack: AsyncExitStack,
) -> None:
    """Take what engines tell of themselves: their counters and, where they are wanted, their traces."""
    say, now_us = accountant.tell, accountant.clock.now_us
    counters = settings.engine_metrics
    if counters.enabled:
        pace = Pace(counters.busy_period_s, counters.idle_period_s, timeout_s=counters.timeout_s)
        poller = EngineMetrics(backends.all, say, now_us, pace)
        await stack.enter_async_context(background(poller.run()))
    if traces is not None:
        from accounting.otlp.serve import receiving  # needs packages that are there only if wanted

        receiver = Receiver(traces, say, now_us)
        metrics.registry.register(receiver)
        otlp = settings.otlp
        await stack.enter_async_context(receiving(receiver, otlp.host, otlp.grpc_port, otlp.http_port))


async def _tick(accountant: Accountant) -> None:
    while True:
        wait_s = accountant.tick()
        await asyncio.sleep(wait_s)


async def _settle(accountant: Accountant) -> None:
    """Wait, within reason, for the final figures of what has ended."""
    deadline = asyncio.get_running_loop().time() + SETTLE_S
    while not accountant.settled and asyncio.get_running_loop().time() < deadline:
        wait_s = accountant.tick()
        await asyncio.sleep(wait_s)
