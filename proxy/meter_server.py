"""This machine's meter for others to read: `GET /v1/meter/reads`, what accounting/meters/peer.py asks.

What the meter says is numbered and kept for a while, so that several can ask, each from where it was.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from accounting.clock import Clock
from accounting.events import MeterDown, MeterUp
from accounting.meters.contract import Meter, MeterEvent
from accounting.meters.peer import FORMAT, PATH, Told

KEPT = 8_192
"""Events kept: with eight GPUs read all the time, some fifty seconds."""

TICK_S = 0.05
BUSY_US = 3_000_000
"""Who asks with busy=1 has the GPUs read often for this long."""


class Feed:
    """The meter's events by number, and the present state of each GPU."""

    def __init__(self, meter: Meter, clock: Clock, node: str) -> None:
        self.run = uuid4().hex
        self._meter, self._clock, self._node = meter, clock, node
        self._kept: deque[MeterEvent] = deque(maxlen=KEPT)
        self._next = 0
        """The number of the next event."""
        self._state: dict[str, MeterUp | MeterDown] = {}
        self._busy_until_us = 0

    def tick(self) -> None:
        """Take what the meter has to say, and tell it whether anybody is in a hurry."""
        self._meter.set_busy(self._clock.now_us() < self._busy_until_us)
        for event in self._meter.drain():
            self._kept.append(event)
            self._next += 1
            if isinstance(event, MeterUp | MeterDown):
                self._state[event.gpu] = event
                if isinstance(event, MeterUp):
                    self._state.pop("*", None)

    def told(self, run: str | None, after: int, busy: bool, received_us: int) -> Told:
        """What is new since `after` for one who knows this `run`; else the present state."""
        if busy:
            self._busy_until_us = self._clock.now_us() + BUSY_US
            self._meter.set_busy(True)
        first = self._next - len(self._kept)
        if run == self.run and 0 <= after <= self._next:
            begin = max(after, first)
            lost, events = begin - after, [self._kept[i - first] for i in range(begin, self._next)]
        else:
            lost, events = 0, list(self._state.values())
        return Told(
            format=FORMAT,
            node=self._node,
            run=self.run,
            received_us=received_us,
            sent_us=self._clock.now_us(),
            next=self._next,
            lost=lost,
            events=events,
        )


def create_meter_app(meter: Meter, clock: Clock, *, node: str, token: str | None) -> Starlette:
    """The application. With a `token` every question must bring it; without, anybody may ask."""
    feed = Feed(meter, clock, node)

    async def reads(request: Request) -> Response:
        received_us = clock.now_us()
        if token is not None and not _brings(request, token):
            body = {"error": "a bearer token is needed, or this one is wrong"}
            return JSONResponse(
                body, status_code=401, headers={"www-authenticate": 'Bearer realm="joulegate"'}
            )
        asked = request.query_params
        try:
            after, busy = int(asked.get("after", "0")), asked.get("busy") == "1"
        except ValueError:
            return JSONResponse({"error": "after must be a number"}, status_code=400)
        feed.tick()
        told = feed.told(asked.get("run"), after, busy, received_us)
        return Response(msgspec.json.encode(told), media_type="application/json")

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async def ticking() -> None:
            while True:
                feed.tick()
                await asyncio.sleep(TICK_S)

        meter.start()
        task = asyncio.create_task(ticking())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            meter.close()

    return Starlette(routes=[Route(PATH, reads), Route("/health", health)], lifespan=lifespan)


def _brings(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
