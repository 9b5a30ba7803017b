"""Answers to requests that go no further: an error as the whole of an answer, in OpenAI's shape."""

from __future__ import annotations

from uuid import uuid4

from proxy.ask import header
from proxy.cors import readable
from proxy.errors import (
    ApiError,
    BadRequest,
    BodyTooLarge,
    HeadTooLarge,
    NotSupported,
    RequestTimeout,
    VersionNotSupported,
)
from proxy.wire.reply import Reply
from proxy.wire.server import Connection
from proxy.wire.turn import Request


def write_error(reply: Reply, error: ApiError, request_id: str) -> None:
    """All of an answer."""
    headers = [
        (b"content-type", b"application/json"),
        (b"x-request-id", request_id.encode("latin-1", "replace")),
        *((name.encode(), value.encode()) for name, value in error.headers().items()),
        *readable(reply.asked),
    ]
    reply.whole(error.status, headers, error.json_bytes())


class Refusal:
    """The answer to a request that is not taken: a `Turn`. A body that is still to come is not waited for."""

    __slots__ = ("_begun", "_connection", "_error", "_reply", "_request")

    def __init__(self, connection: Connection, request: Request, error: ApiError) -> None:
        self._connection, self._request, self._error = connection, request, error
        self._reply = Reply(connection, request)
        self._begun = False

    def begin(self) -> None:
        self._begun = True
        self._request.keep_alive = False
        if self._request.complete or self._request.length or self._request.chunked:
            self._answer()

    def data(self, data: bytes) -> None:
        """Not wanted."""

    def complete(self) -> None:
        if self._begun:
            self._answer()

    def _answer(self) -> None:
        if not self._reply.begun:
            request_id = header(self._request.headers, b"x-request-id") or str(uuid4())
            write_error(self._reply, self._error, request_id)
            self._connection.done(self)

    def gone(self) -> None:
        """Nothing is under way."""

    pause = resume = gone

    def look(self, now_s: float) -> None:
        """It answers as soon as it can."""

    def stop(self, why: str) -> None:
        """Nothing is under way."""


REFUSALS: dict[int, type[ApiError]] = {
    error.status: error
    for error in (BadRequest, RequestTimeout, BodyTooLarge, HeadTooLarge, NotSupported, VersionNotSupported)
}


def refuse(connection: Connection, request: Request, status: int, message: str) -> Refusal:
    """The turn that answers with this status, one of REFUSALS."""
    return Refusal(connection, request, REFUSALS[status](message))
