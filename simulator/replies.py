"""ASGI answers of generating requests: written as the engine makes the tokens, aborted when the client goes.

A stream's headers go out while the request is still queued. All chunks of one engine step are one write.
"""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from simulator.engine import Engine, Run
from simulator.gpu.load import now_us
from simulator.openai import Ask, Wire, body
from simulator.truth import Account

STREAM_TYPE = "text/event-stream; charset=utf-8"


class Reply(Response):
    """Base of the answers that wait for runs of the engine. `in_flight` counts them, for /load."""

    in_flight = 0

    def __init__(self, engine: Engine, runs: list[Run], account: Account, request_id: str) -> None:
        self.background = None
        self.engine = engine
        self.runs = runs
        self.account = account
        self.request_id = request_id
        self.open = len(runs)
        self.gone = False
        self.news = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        Reply.in_flight += 1
        self.account.arrived_us = now_us()
        self.engine.truth.open(self.account)
        for run in self.runs:
            self.engine.submit(run)
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await self.answer(send)
        finally:
            watcher.cancel()
            self._leave()
            Reply.in_flight -= 1

    async def answer(self, send: Send) -> None:
        """Say everything; return early when `gone`."""
        raise NotImplementedError

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass  # nothing else is expected: the body has been read
        self._leave()
        self.news.set()

    def _leave(self) -> None:
        """Drop what still runs, and close the account."""
        if self.account.state != "open":
            return
        self.gone = self.open > 0
        self.account.state = "aborted" if self.gone else "ok"
        for run in self.runs:
            self.engine.abort(run)

    async def start(self, send: Send, content_type: str, length: int | None = None) -> None:
        headers = [
            (b"content-type", content_type.encode()),
            (b"x-request-id", self.request_id.encode("latin-1")),
        ]
        if length is not None:
            headers.insert(0, (b"content-length", b"%d" % length))
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def all_done(self) -> bool:
        """Wait for the last run; False if the client went away before."""
        while self.open and not self.gone:
            self.news.clear()
            await self.news.wait()
        return not self.gone

    async def whole(self, send: Send, content: bytes) -> None:
        await self.start(send, "application/json", len(content))
        await send({"type": "http.response.body", "body": content})

    def on_prefilled(self, run: Run) -> None:
        self.open -= 1
        self.news.set()

    def on_token(self, run: Run, token: int, text: str) -> None:
        raise NotImplementedError


class WholeReply(Reply):
    """A completion in one piece."""

    def __init__(self, engine: Engine, ask: Ask, account: Account, request_id: str) -> None:
        super().__init__(engine, ask.runs, account, request_id)
        self._ask = ask
        self._texts: list[list[str]] = [[] for _ in ask.runs]

    def on_token(self, run: Run, token: int, text: str) -> None:
        self._texts[run.index].append(text)
        if run.finish_reason is not None:
            self.open -= 1
            self.news.set()

    async def answer(self, send: Send) -> None:
        if await self.all_done():
            await self.whole(send, body(self._ask, ["".join(texts) for texts in self._texts]))


class StreamReply(Reply):
    """A completion as server-sent events."""

    def __init__(self, engine: Engine, ask: Ask, account: Account, request_id: str) -> None:
        super().__init__(engine, ask.runs, account, request_id)
        self._wire = Wire(ask)
        self._opened = False
        self._buffer: list[bytes] = []

    def on_token(self, run: Run, token: int, text: str) -> None:
        if not self._opened:
            self._opened = True
            self._buffer.extend(self._wire.opening(one.index) for one in self.runs)
        self._buffer.append(self._wire.token(run, text))
        if run.finish_reason is not None:
            self.open -= 1
            if self.open == 0:
                self._buffer.append(self._wire.closing())
        self.news.set()

    async def answer(self, send: Send) -> None:
        await self.start(send, STREAM_TYPE)
        while True:
            await self.news.wait()
            self.news.clear()
            if self.gone:
                return
            ended = self.open == 0
            chunks, self._buffer = b"".join(self._buffer), []
            await send({"type": "http.response.body", "body": chunks, "more_body": True})
            if ended:
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})
