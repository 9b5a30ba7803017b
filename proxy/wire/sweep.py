"""Timeouts, coarsely: one task looks at everything now and then, instead of a timer per request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

FINEST_S, COARSEST_S = 0.02, 0.5


class Watched(Protocol):
    def look(self, now_s: float) -> None:
        """`now_s` is the loop's time. May take itself out of what is watched."""


def period_s(*timeouts_s: float | None) -> float:
    """How often to look, so that a timeout is at most some 10 % late (and at most half a second)."""
    shortest = min((timeout for timeout in timeouts_s if timeout is not None), default=COARSEST_S)
    return min(max(shortest / 10, FINEST_S), COARSEST_S)


async def sweep(watched: Callable[[], Collection[Watched]], every_s: Callable[[], float]) -> None:
    """Runs until cancelled. `every_s` is asked each time, as timeouts can change."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every_s())
        now_s = loop.time()
        for one in list(watched()):
            one.look(now_s)
