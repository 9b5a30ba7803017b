"""A socket between joulegate and its database that lets bytes through later."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType


class Delay:
    """Listens on a free port of 127.0.0.1 and passes on to `port`; `delay_s` counts for each way."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.delay_s = 0.0
        self.port = 0
        self._listens = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Delay:
        self._thread.start()
        self._listens.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        await self._end.wait()
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        try:
            server, ask = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            answer.close()
            return
        await asyncio.gather(self._pass(client, ask), self._pass(server, answer))

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                to.write(data)
                await to.drain()
        except ConnectionError:
            pass  # it is closed below, which is what the other side has to hear
        finally:
            to.close()
