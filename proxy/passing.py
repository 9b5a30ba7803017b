"""How an engine's answer passes to the client: as a stream of events, a JSON document, as it is, or a tunnel.

Each kind is told of the answer's pieces in the callback of the engine's socket and writes to the client's at
once. The account is closed, and written down, before the last byte is handed over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from proxy import answer as answers
from proxy.account import Account, status_of
from proxy.energy import energy_json, pending_json, splice
from proxy.errors import ApiError, BackendFailed
from proxy.settings import Energy
from proxy.stream import EventStream, Fingerprint
from proxy.wire.client import Answer, Line
from proxy.wire.head import FRAMING, NO_BODY, Header, Headers, dropped, write_answer
from proxy.wire.reply import Reply
from proxy.wire.server import Connection

log = logging.getLogger(__name__)


class Passing(Protocol):
    """One answer on its way."""

    def pieces(self, data: bytes) -> None:
        """Bytes of the body came."""

    def over(self) -> None:
        """That was all: close the account. Raises ApiError where it is not what it should be and nothing was
        sent yet."""

    def end(self, trailers: list[Header]) -> None:
        """Give the client the rest: the account is closed and written down. Follows `over`, or a `broke_off`
        that said True."""

    def broke_off(self, error: ApiError) -> bool:
        """The engine broke off. Whether the client gets all that matters all the same."""

    def tell(self, error: ApiError) -> bool:
        """Put the error into the answer, if it can be; whether it was."""


def answer_headers(answer: Answer, account: Account) -> Headers:
    """The engine's headers with our request id, and what is left of limits; the length is ours to say."""
    drop = dropped(answer.headers)
    headers = [header for header in answer.headers if header[0] not in drop and header[0] != b"x-request-id"]
    headers.append((b"x-request-id", account.ask.request_id.encode("latin-1", "replace")))
    if account.grant is not None:
        headers += account.grant.headers()
    return headers


PLACE = b'"\0joulegate\0"'
"""Stands in the tail of a held stream where the energy object comes. JSON has no such string."""


class StreamPassing:
    """Server-sent events: forward, count, change the tail.

    Where the record comes later (see `Account.waiting`), what follows the account's end is held until then.
    """

    __slots__ = ("_account", "_events", "_held", "_line", "_pue", "_reply", "_send", "_send_framed",
                 "_visible")  # fmt: skip

    def __init__(
        self,
        answer: Answer,
        reply: Reply,
        account: Account,
        line: Line,
        fingerprint: Fingerprint,
        energy: Energy,
        pue: float | None,
        *,
        forced: bool,
    ) -> None:
        show = energy.in_streams
        self._reply, self._account, self._line = reply, account, line
        self._visible, self._pue = show != "never", pue
        self._held: list[bytes] = []
        self._send: Callable[[bytes], None] = reply.send
        self._events = EventStream(
            fingerprint,
            self._close,
            forced=forced and show != "always",
            show_usage=not forced or show == "always",
        )
        headers = answer_headers(answer, account)
        reply.begin(answer.status, headers, length=None, reason=answer.reason)
        self._send_framed = reply.framed
        if reply.chunked:
            line.framed = self._framed

    def _framed(self, chunk: bytes, data: bytes) -> None:
        """The same as `pieces`; where nothing is changed, the chunk goes on as it came."""
        events = self._events
        out = events.feed(data)
        if out is data and self._line.framed is not None:  # the client still gets all at once
            self._send_framed(chunk)
        elif out:
            self._send(out)
        if events.tokens > 0:
            self._account.count(events.tokens, self._line.last_s)
            events.tokens = 0

    def pieces(self, data: bytes) -> None:
        events = self._events
        out = events.feed(data)
        if out:
            self._send(out)
        if events.tokens > 0:
            self._account.count(events.tokens, self._line.last_s)
            events.tokens = 0

    def over(self) -> None:
        if left := self._events.end():
            self._send(left)

    def end(self, trailers: list[Header]) -> None:
        self._reply.end(trailers)

    def broke_off(self, error: ApiError) -> bool:
        if left := self._events.abandon():
            self._send(left)
        if not self._events.finished:
            return False
        log.info("%s, after the end of an answer", error.message)
        self.over()
        return True

    def tell(self, error: ApiError) -> bool:
        self._reply.send(b"data: " + error.json_bytes() + b"\n\n")
        self._reply.end()
        return True

    def _close(self, stream: EventStream) -> bytes | None:
        account = self._account
        if stream.tokens > 0:
            # All of an answer can come in one piece: its tokens have to be said before its end.
            account.count(stream.tokens, self._line.last_s)
            stream.tokens = 0
        account.usage, account.times = stream.usage, stream.times
        if stream.error is not None:
            message, code = stream.error
            account.status = "client_error" if code is not None and code < 500 else "engine_error"
            account.error = message
        elif (account.http_status or 200) >= 400:
            account.status = status_of(account.http_status)
        elif stream.finished:
            account.status = "ok"
        else:
            account.status, account.error = "engine_error", "the stream ended without a finish_reason"
        record = account.close()
        if account.waiting:
            self._send, self._line.framed = self._held.append, None
            account.when_overdue(self._release)
            return PLACE if self._visible else None
        return energy_json(record, self._pue) if record is not None and self._visible else None

    def _release(self) -> None:
        """The record is here, or takes too long."""
        record = self._account.record
        energy = (
            pending_json(self._account.ask.request_id) if record is None else energy_json(record, self._pue)
        )
        self._send = self._reply.send
        held, self._held = b"".join(self._held), []
        if held:
            self._send(held.replace(PLACE, energy, 1))


class DocumentPassing:
    """A JSON body: read whole, given its energy, sent on."""

    __slots__ = ("_account", "_answer", "_backend_id", "_body", "_fingerprint", "_has_usage", "_parts",
                 "_pue", "_reply", "_show")  # fmt: skip

    def __init__(
        self,
        answer: Answer,
        reply: Reply,
        account: Account,
        backend_id: str,
        fingerprint: Fingerprint,
        energy: Energy,
        pue: float | None,
    ) -> None:
        self._answer, self._reply, self._account = answer, reply, account
        self._backend_id, self._fingerprint = backend_id, fingerprint
        self._show, self._pue = energy.in_answers, pue
        self._parts: list[bytes] = []
        self._body, self._has_usage = b"", False

    def pieces(self, data: bytes) -> None:
        self._parts.append(data)

    def over(self) -> None:
        answer, account = self._answer, self._account
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        plain = answer.header(b"content-encoding") in (None, b"identity") and answer.status not in NO_BODY
        parsed = answers.parse(body) if plain else None
        if answer.status < 300 and plain and parsed is None and not answers.is_json(body):
            raise BackendFailed(f"backend {self._backend_id} answered something that is not JSON")
        account.status = status_of(answer.status)
        if parsed is not None:
            account.usage, account.times = answers.usage_of(parsed), answers.times_of(parsed)
            self._fingerprint.learn(parsed)
            if answer.status >= 400 and answers.has_error(parsed):
                account.error = answers.error_of(bytes(parsed.error))[0]
        account.close()
        self._body = body
        self._has_usage = parsed is not None and parsed.usage is not None and answer.status < 300

    def end(self, trailers: list[Header]) -> None:
        answer, account, body = self._answer, self._account, self._body
        record = account.record
        if record is not None and self._has_usage and self._show:
            body = splice(body, "energy", energy_json(record, self._pue))
        headers = answer_headers(answer, account)
        self._reply.whole(answer.status, headers, body, reason=answer.reason)

    def broke_off(self, error: ApiError) -> bool:
        return False

    def tell(self, error: ApiError) -> bool:
        return False


class Tunnel:
    """What follows a 101: bytes both ways, until one side closes. No account is kept of what passes."""

    __slots__ = ("_line", "_now_s", "pieces")

    def __init__(self, answer: Answer, connection: Connection, line: Line) -> None:
        self._line, self._now_s = line, connection.loop.time
        self.pieces = connection.transport.write
        # Connection and Upgrade are of the hop, but both hops change in the same way here.
        headers = [header for header in answer.headers if header[0] not in FRAMING]
        connection.transport.write(write_answer(answer.status, answer.reason, headers, b""))
        connection.tunnel(self._up)

    def _up(self, data: bytes) -> None:
        self._line.last_s = self._now_s()
        self._line.more(data)

    def over(self) -> None:
        """The engine never ends this way: it closes."""

    def end(self, trailers: list[Header]) -> None:
        """Nothing is left to be said."""

    def broke_off(self, error: ApiError) -> bool:
        return True

    def tell(self, error: ApiError) -> bool:
        return False


class PlainPassing:
    """Anything else: passed on piece by piece."""

    __slots__ = ("_account", "_reply", "_status", "pieces")

    def __init__(self, answer: Answer, reply: Reply, account: Account) -> None:
        self._reply, self._account, self._status = reply, account, answer.status
        self.pieces = reply.send
        headers = answer_headers(answer, account)
        reply.begin(answer.status, headers, length=answer.length, reason=answer.reason)

    def over(self) -> None:
        self._account.status = status_of(self._status)
        self._account.close()

    def end(self, trailers: list[Header]) -> None:
        self._reply.end(trailers)

    def broke_off(self, error: ApiError) -> bool:
        return False

    def tell(self, error: ApiError) -> bool:
        # Half a body cannot be mended: the connection is broken, so that nobody takes it for whole.
        return False
