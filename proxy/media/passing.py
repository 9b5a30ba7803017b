"""How the answers to requests for images and videos pass to the client.

An answer with images is megabytes of base64: it goes on as it comes, and only its end is held back, as long
as it takes to put the energy there. The answer to a video is a small description of a job: the account stays
open, and is closed when the job is over.
"""

from __future__ import annotations

from proxy.account import Account, status_of
from proxy.energy import energy_json, splice
from proxy.errors import ApiError
from proxy.media import video
from proxy.passing import DocumentPassing, answer_headers
from proxy.wire.client import Answer
from proxy.wire.head import Header
from proxy.wire.reply import Reply

TAIL_BYTES = 64
"""So much of the end is held back: the last brace, and what white space may follow it."""


class ImagePassing:
    """A JSON object that may be large; `energy` becomes its last member."""

    __slots__ = ("_account", "_pue", "_reply", "_show", "_tail")

    def __init__(
        self, answer: Answer, reply: Reply, account: Account, pue: float | None, *, show: bool
    ) -> None:
        self._reply, self._account, self._pue = reply, account, pue
        self._show = show and answer.header(b"content-encoding") is None
        self._tail = b""
        reply.begin(answer.status, answer_headers(answer, account), length=None, reason=answer.reason)

    def pieces(self, data: bytes) -> None:
        whole = self._tail + data if self._tail else data
        if len(whole) > TAIL_BYTES:
            self._reply.send(whole[:-TAIL_BYTES])
        self._tail = whole[-TAIL_BYTES:]

    def over(self) -> None:
        self._account.status = status_of(self._account.http_status)
        self._account.close()

    def end(self, trailers: list[Header]) -> None:
        record, tail = self._account.record, self._tail
        if record is not None and self._show:
            tail = splice(tail, "energy", energy_json(record, self._pue))
        self._reply.send(tail)
        self._reply.end(trailers)

    def broke_off(self, error: ApiError) -> bool:
        return False

    def tell(self, error: ApiError) -> bool:
        return False


class JobPassing(DocumentPassing):
    """The description of a job that was begun."""

    __slots__ = ()

    def over(self) -> None:
        body, account = b"".join(self._parts), self._account
        job = video.parse(body)
        if job is None or self._answer.status >= 300 or account.ask.media is None:
            super().over()
            return
        account.hand_over(job.id, video.refined(account.ask.media, job))
        self._body = body
