"""The connections to one engine: idle ones are used again, new ones made when there is none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from proxy.wire.client import Line

KEEP_ALIVE_S = 4.0
"""vLLM's server closes a connection idle for 5 s: ours is let go of before it does."""


class ConnectTimeout(OSError):
    """The engine did not accept the connection in time."""


class Pool:
    """Lines to one address. Made inside a running loop."""

    def __init__(self, url: str, *, connect_s: float) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls is not None else 80)
        self.authority = parts.netloc.rpartition("@")[2].encode("latin-1")
        """What Host says where the client does not say it."""
        self.prefix = parts.path.rstrip("/").encode("latin-1")
        """Path before every path."""
        self.connect_s = connect_s
        self._idle: list[Line] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def take(self) -> Line | None:
        """An idle line that is still good, the one used last; None: `connect`."""
        oldest_s = self._loop.time() - KEEP_ALIVE_S
        while self._idle:
            line = self._idle.pop()
            if line.idle_since_s >= oldest_s and not line.transport.is_closing():
                return line
            line.transport.close()
        return None

    def connect(
        self, ready: Callable[[Line], None], failed: Callable[[OSError], None]
    ) -> Callable[[], object]:
        """Make a line; `ready` or `failed` is called, never both. Returns a call that gives up on it."""
        task = self._loop.create_task(self._connect(ready, failed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    async def _connect(self, ready: Callable[[Line], None], failed: Callable[[OSError], None]) -> None:
        try:
            async with asyncio.timeout(self.connect_s):
                line = await self._dial()
        except TimeoutError:
            failed(ConnectTimeout("timed out"))
            return
        except OSError as error:
            failed(error)
            return
        ready(line)

    async def _dial(self) -> Line:
        """Raises OSError."""
        _, line = await self._loop.create_connection(
            lambda: Line(self, self._loop), self._host, self._port, ssl=self._tls
        )
        return line

    def give(self, line: Line) -> None:
        """Keep it for the next request."""
        line.idle_since_s = self._loop.time()
        self._idle.append(line)

    def lost(self, line: Line) -> None:
        """It was closed, by whomever."""
        if line in self._idle:
            self._idle.remove(line)

    def look(self, now_s: float) -> None:
        """Close what has been idle for too long (the oldest come first)."""
        while self._idle and now_s - self._idle[0].idle_since_s > KEEP_ALIVE_S:
            self._idle.pop(0).transport.close()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for line in self._idle:
            line.transport.close()
        self._idle.clear()


class UnixPool(Pool):
    """Lines to a process of this machine."""

    def __init__(self, path: str, *, connect_s: float) -> None:
        super().__init__("http://localhost", connect_s=connect_s)
        self._path = path

    async def _dial(self) -> Line:
        _, line = await self._loop.create_unix_connection(lambda: Line(self, self._loop), self._path)
        return line
