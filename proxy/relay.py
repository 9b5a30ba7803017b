"""The relay: one request to one engine and its answer back, bytes as they came, accounted on the way.

A plain ASGI application. Everything that is not joulegate's own passes through here. Bytes are forwarded
first and looked at second; what is looked for, and the few places where an answer is changed, are in
`stream.py` (server-sent events) and `answer.py` (JSON bodies).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import aiohttp
from starlette.types import Receive, Scope, Send

from accounting.events import EngineTimes, Status, Usage
from accounting.records import RequestRecord
from accounting.service import Accountant
from proxy import answer
from proxy.ask import Ask, understand
from proxy.backends import Backend, Backends
from proxy.energy import energy_json, splice
from proxy.errors import ApiError, BackendFailed, BackendTimeout, BackendUnavailable, BodyTooLarge
from proxy.hints import Hints
from proxy.retry import Fault, is_failure
from proxy.settings import Energy, Settings
from proxy.stream import EventStream
from proxy.upstream import Headers, Upstream, response_headers

log = logging.getLogger(__name__)

GONE_STATUS = 499
"""Status in the record of a request whose client went away before the answer began (nginx's custom)."""


class ClientGone(Exception):
    """The client closed its connection."""


class Relay:
    """The ASGI application."""

    def __init__(
        self, settings: Settings, backends: Backends, upstream: Upstream, accountant: Accountant
    ) -> None:
        self._backends, self._upstream, self._accountant = backends, upstream, accountant
        self._energy = settings.energy
        self._max_body = int(settings.server.max_body_mb * 1_000_000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, error = b"", None
        try:
            body = await self._read_body(receive)
        except ClientGone:
            return
        except BodyTooLarge as too_large:
            error = too_large
        ask = _ask(scope, body)
        try:
            if error is not None:
                raise error
            hints = self._backends.hints(ask.headers, ask.body)
            backend = self._backends.choose(ask.model, session=hints.session, prefix=hints.prefix)
        except ApiError as refusal:
            self._reject(ask, refusal)
            await send_error(send, refusal, ask.request_id)
            return
        handle = self._open(ask, backend) if ask.accounted else None
        exchange = Exchange(
            self._upstream,
            self._accountant,
            self._energy,
            ask,
            backend,
            handle,
            send,
            self._backends,
            hints,
            self._open,
        )
        await exchange.run(receive)

    async def _read_body(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body:
                raise BodyTooLarge(f"the request body is larger than {self._max_body} bytes")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _reject(self, ask: Ask, error: ApiError) -> None:
        """Keep a record of a request that never reached an engine."""
        if ask.accounted:
            handle = self._open(ask, None)
            self._accountant.finish(handle, "rejected", error.status, error=error.message)

    def _open(self, ask: Ask, backend: Backend | None) -> int:
        return self._accountant.start(
            ask.request_id,
            route=ask.path,
            backend=None if backend is None else backend.id,
            model=ask.model,
            tenant=ask.tenant,
            streamed=ask.streamed,
            body_bytes=len(ask.body),
            sequences=ask.sequences,
        )


@dataclass(slots=True)
class Outcome:
    """What became of a request, as far as is known."""

    status: Status = "aborted"
    http_status: int | None = None
    usage: Usage | None = None
    times: EngineTimes | None = None
    error: str | None = None


class Exchange:
    """One request while it is under way. `handle` is None where no account is kept."""

    def __init__(
        self,
        upstream: Upstream,
        accountant: Accountant,
        energy: Energy,
        ask: Ask,
        backend: Backend,
        handle: int | None,
        send: Send,
        backends: Backends,
        hints: Hints,
        open_on: Callable[[Ask, Backend], int],
    ) -> None:
        self._upstream, self._accountant, self._energy = upstream, accountant, energy
        self._backends, self._hints, self._tried = backends, hints, [backend]
        self._open = partial(open_on, ask)
        self._engine_ok: bool | None = None
        self._begun_s = self._first_s = self._last_s = time.monotonic()
        self._tokens = 0
        self._ask, self._backend, self._handle, self._send = ask, backend, handle, send
        self._outcome = Outcome()
        self._answering = False
        self._in_events = False
        self._closed = False
        self._seen_first = False
        self._gone = False

    async def run(self, receive: Receive) -> None:
        """Carry it out. Whatever happens, the client gets an end and the ledger a `finished`."""
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(self._watch(receive, task))
        self._begin()
        try:
            await self._relay()
        except ApiError as error:
            self._engine_ok = False
            self._fail(error)
            await self._tell(error)
        except asyncio.CancelledError:
            if not self._gone:
                self._outcome.error = "joulegate was stopped"
                raise
            task.uncancel()
            self._outcome.status, self._outcome.error = "aborted", "the client closed the connection"
            self._outcome.http_status = self._outcome.http_status or GONE_STATUS
        finally:
            self._finish()
            watcher.cancel()
            self._end()

    def _begin(self) -> None:
        self._backend.begin(self._hints.work)
        self._engine_ok, self._begun_s = None, time.monotonic()

    def _end(self) -> None:
        tokens, ttft_s, itl_s = self._tokens, None, None
        if tokens:
            ttft_s = self._first_s - self._begun_s
            itl_s = (self._last_s - self._first_s) / (tokens - 1) if tokens > 1 else None
        self._backend.end(self._engine_ok, ttft_s, itl_s=itl_s, work=self._hints.work)

    async def _dispatch(self, body: bytes) -> aiohttp.ClientResponse:
        """Send it, on other replicas if the first cannot have it. Raises ApiError."""
        while True:
            engine: aiohttp.ClientResponse | None = None
            failed: ApiError | None = None
            failure: Fault | int
            try:
                engine = await self._upstream.send(self._backend, self._ask, body)
                failure = engine.status
            except ApiError as error:
                failed, failure = error, fault_of(error)
                if failure is Fault.REFUSED:
                    self._backend.unreachable()
            self._engine_ok = not is_failure(failure)
            other = self._backends.again(
                failure, self._tried, self._ask.model, session=self._hints.session, prefix=self._hints.prefix
            )
            if other is None:
                if engine is not None:
                    return engine
                assert failed is not None
                raise failed
            if engine is not None:
                engine.close()
            why = f"backend {self._backend.id} gave {failure}; tried again on {other.id}"
            self._end()
            if self._handle is not None:
                # A record for each try: the failed one's joules stay where they were drawn.
                status = None if engine is None else engine.status
                self._accountant.finish(self._handle, "engine_error", status, error=why)
                self._handle = self._open(other)
            self._backend = other
            self._tried.append(other)
            self._begin()

    async def _watch(self, receive: Receive, task: asyncio.Task[None]) -> None:
        """Cancel the exchange when the client goes away, so that the engine stops working for it."""
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._closed:
            self._gone = True
            task.cancel()

    async def _relay(self) -> None:
        ask = self._ask
        forced = ask.forced_body is not None
        engine = await self._dispatch(ask.forced_body or ask.body)
        if forced and 400 <= engine.status < 500:
            # Let the engine judge the client's own words: its answer may quote them.
            engine.close()
            engine, forced = await self._upstream.send(self._backend, ask, ask.body), False
        async with engine:
            self._outcome.http_status = engine.status
            kind = engine.headers.get("content-type", "")
            if kind.startswith("text/event-stream"):
                await self._stream(engine, forced)
            elif self._handle is not None and "json" in kind:
                await self._document(engine)
            else:
                await self._plain(engine)

    async def _stream(self, engine: aiohttp.ClientResponse, forced: bool) -> None:
        """Server-sent events: forward, count, change the tail."""
        show = self._energy.in_streams
        events = EventStream(
            self._backend.fingerprint,
            lambda stream: self._close_stream(stream, visible=show != "never"),
            forced=forced and show != "always",
            show_usage=not forced or show == "always",
        )
        self._in_events = True
        await self._head(engine.status, response_headers(engine, self._ask, None))
        try:
            async for data in self._upstream.pieces(engine, self._backend):
                if out := events.feed(data):
                    await self._body(out)
                self._count(events)
        except ApiError as error:
            if left := events.abandon():
                await self._body(left)
            if not events.finished:
                raise
            log.info("backend %s broke off after the end of an answer: %s", self._backend.id, error)
        await self._body(events.end(), more=False)

    def _count(self, events: EventStream) -> None:
        """Say what tokens came by, each once and before the end is said."""
        if events.tokens <= 0 or self._handle is None or self._closed:
            return
        self._last_s = time.monotonic()
        if not self._seen_first:
            self._seen_first, self._first_s = True, self._last_s
            self._accountant.first(self._handle)
        self._tokens += events.tokens
        self._accountant.tokens(self._handle, events.tokens)
        events.tokens = 0

    def _close_stream(self, stream: EventStream, *, visible: bool) -> bytes | None:
        # All of an answer can come in one piece: its tokens have to be said before its end.
        self._count(stream)
        outcome = self._outcome
        outcome.usage, outcome.times = stream.usage, stream.times
        if stream.error is not None:
            message, code = stream.error
            outcome.status = "client_error" if code is not None and code < 500 else "engine_error"
            outcome.error = message
        elif (outcome.http_status or 200) >= 400:
            outcome.status = _status_of(outcome.http_status)
        elif stream.finished:
            outcome.status = "ok"
        else:
            outcome.status, outcome.error = "engine_error", "the stream ended without a finish_reason"
        record = self._finish()
        return energy_json(record) if record is not None and visible else None

    async def _document(self, engine: aiohttp.ClientResponse) -> None:
        """A JSON body: read whole, given its energy, sent on."""
        body = b"".join([piece async for piece in self._upstream.pieces(engine, self._backend)])
        plain = "content-encoding" not in engine.headers
        parsed = answer.parse(body) if plain else None
        if engine.status < 300 and plain and parsed is None and not answer.is_json(body):
            raise BackendFailed(f"backend {self._backend.id} answered something that is not JSON")
        outcome = self._outcome
        outcome.status = _status_of(engine.status)
        if parsed is not None:
            outcome.usage, outcome.times = answer.usage_of(parsed), answer.times_of(parsed)
            self._backend.fingerprint.learn(parsed)
            if answer.has_error(parsed) and engine.status >= 400:
                outcome.error = answer.error_of(bytes(parsed.error))[0]
        record = self._finish()
        has_usage = parsed is not None and parsed.usage is not None and engine.status < 300
        if record is not None and has_usage and self._energy.in_answers:
            body = splice(body, "energy", energy_json(record))
        await self._head(engine.status, response_headers(engine, self._ask, len(body)))
        await self._body(body, more=False)

    async def _plain(self, engine: aiohttp.ClientResponse) -> None:
        """Anything else: passed on piece by piece."""
        length = engine.headers.get("content-length")
        headers = response_headers(engine, self._ask, None if length is None else int(length))
        await self._head(engine.status, headers)
        async for piece in self._upstream.pieces(engine, self._backend):
            await self._body(piece)
        self._outcome.status = _status_of(engine.status)
        self._finish()
        await self._body(b"", more=False)

    def _finish(self) -> RequestRecord | None:
        """Say that it is over, once. The record so far, where one is kept."""
        if self._closed:
            return None
        self._closed = True
        if self._handle is None:
            return None
        o = self._outcome
        record = self._accountant.finish(
            self._handle, o.status, o.http_status, usage=o.usage, times=o.times, error=o.error
        )
        # Where nothing is measured there is nothing to wait for: the record is settled at once.
        return record or self._accountant.find(self._ask.request_id)

    def _fail(self, error: ApiError) -> None:
        self._outcome.status, self._outcome.error = "engine_error", error.message
        if not self._answering:
            self._outcome.http_status = error.status
        self._finish()
        log.warning("%s %s: %s", self._ask.path, self._ask.request_id, error.message)

    async def _tell(self, error: ApiError) -> None:
        """Give the client the error in whatever form is still possible."""
        if not self._answering:
            await send_error(self._send, error, self._ask.request_id)
        elif self._in_events:
            await self._body(b"data: " + error.json_bytes() + b"\n\n", more=False)
        else:
            # Half a body cannot be mended: break the connection, so that nobody takes it for whole.
            raise ConnectionAbortedError(error.message)

    async def _head(self, status: int, headers: Headers) -> None:
        self._answering = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


def _ask(scope: Scope, body: bytes) -> Ask:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.split(b"?")[0].decode("latin-1")
    return understand(scope["method"], path, scope["query_string"], scope["headers"], body)


def _status_of(http_status: int | None) -> Status:
    status = http_status or 200
    return "ok" if status < 400 else "client_error" if status < 500 else "engine_error"


def fault_of(error: ApiError) -> Fault:
    """How a try failed, from the error that `Upstream.send` raised."""
    if isinstance(error, BackendUnavailable) or isinstance(error.__cause__, aiohttp.ConnectionTimeoutError):
        return Fault.REFUSED
    if isinstance(error, BackendTimeout):
        return Fault.TIMEOUT
    return Fault.GARBAGE if isinstance(error.__cause__, aiohttp.ClientResponseError) else Fault.CLOSED


async def send_error(send: Send, error: ApiError, request_id: str) -> None:
    body = error.json_bytes()
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode("latin-1", "replace")),
        *((name.encode(), value.encode()) for name, value in error.headers().items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
