"""All workers: started, watched, told of each other's load and of new settings, ended together."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.background import background
from proxy.settings import Settings
from proxy.workers.messages import Changed, Load, Setup, packed
from proxy.workers.peer import Hearers
from proxy.workers.post import LOOK_S, Post

log = logging.getLogger(__name__)

UP_S = 30.0
"""For all workers to listen, at the start."""

MARGIN_S = 5.0
"""At a stop, a worker gets so much longer than the requests under way."""


class Crew:
    """Use: `running` around the time in which the main process serves; `drain` when that ends."""

    def __init__(
        self, count: int, hearers: Hearers, own: Sequence[str], settings: Callable[[], Settings]
    ) -> None:
        """`count` workers. `own`: paths that are joulegate's own. `settings`: as they are now."""
        self._hearers, self._own, self._settings = hearers, list(own), settings
        self._where = "", 0, ""
        self._posts = [Post(source, hearers, self._setup) for source in range(1, count + 1)]

    @asynccontextmanager
    async def running(
        self, host: str, port: int, connection: Callable[[], asyncio.Protocol]
    ) -> AsyncIterator[None]:
        """All workers listen on the port, or the log says why not. At the end they are ended.

        `connection` makes the protocol for one of theirs with requests that are not for an engine.
        """
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="joulegate-"))  # mode 700
            inside = str(Path(directory) / "main")
            server = await loop.create_unix_server(connection, inside)
            stack.callback(server.close)
            self._where = host, port, inside
            await stack.enter_async_context(background(self._watch()))
            keeping = [loop.create_task(post.keep()) for post in self._posts]
            stack.push_async_callback(self._ended, keeping)
            await self._all_up()
            yield

    def drain(self) -> None:
        """Let what is under way end; no worker is started again."""
        for post in self._posts:
            post.drain()

    def reload(self) -> None:
        """Hand on the settings as they are now."""
        changed = Changed(packed(self._settings()))
        for post in self._posts:
            post.say([changed])

    def metrics(self) -> Iterator[Metric]:
        """For /metrics."""
        yield GaugeMetricFamily(
            "joulegate_workers",
            "Processes that relay now, the main one included.",
            value=1 + sum(post.up for post in self._posts),
        )
        yield CounterMetricFamily(
            "joulegate_worker_ends",
            "Workers that ended unasked.",
            value=sum(post.ends for post in self._posts),
        )

    def _setup(self, source: int) -> Setup:
        host, port, inside = self._where
        return Setup(
            source=source,
            offset_us=self._hearers.accountant.clock.offset_us,
            host=host,
            port=port,
            inside=inside,
            own=self._own,
            settings=packed(self._settings()),
        )

    async def _watch(self) -> None:
        while True:
            self._share_loads()
            await asyncio.sleep(LOOK_S)

    def _share_loads(self) -> None:
        """Tell everybody what all the others have in flight."""
        backends = self._hearers.backends
        own = {backend.id: backend.load for backend in backends.all}
        everybody = [own, *(post.loads for post in self._posts)]
        for post in self._posts:
            post.look(_sum(loads for loads in everybody if loads is not post.loads))
        theirs = _sum(everybody[1:])
        for backend in backends.all:
            backend.elsewhere(*theirs.get(backend.id, (0, 0)))
        for backend in backends.leaving:
            backend.elsewhere(*((0, 0) if backend.id in own else theirs.get(backend.id, (0, 0))))

    async def _all_up(self) -> None:
        deadline_s = asyncio.get_running_loop().time() + UP_S
        while not all(post.up for post in self._posts):
            if asyncio.get_running_loop().time() > deadline_s:
                log.error("not all workers have started: joulegate serves with those that have")
                return
            await asyncio.sleep(LOOK_S)

    async def _ended(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        self.drain()
        _, left = await asyncio.wait(keeping, timeout=self._settings().server.drain_s + MARGIN_S)
        if left:
            log.error("%d workers did not end in time", len(left))
            for post in self._posts:
                post.kill()
        await asyncio.gather(*keeping)


def _sum(all_loads: Iterable[dict[str, Load]]) -> dict[str, Load]:
    """By backend; those with nothing in flight left out."""
    total: dict[str, Load] = {}
    for loads in all_loads:
        for name, (in_flight, work) in loads.items():
            before = total.get(name, (0, 0))
            if in_flight or work:
                total[name] = before[0] + in_flight, before[1] + work
    return total
