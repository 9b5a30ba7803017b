"""What the load generator can hold on one core, and whether it says so when it cannot.

A server that does nothing else (a process of its own, on the other core) streams a chunk to each client every
`TICK_S`. More and more clients are served by one Locust process: what it sees of the chunks, how busy it is,
and whether it calls itself slow (loadgen/watch.py). Then the same with answers of two tokens, given at once:
requests per second.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadgen import rows

TASKFILE = Path(rows.__file__).with_name("taskfile.py")
TICK_S = 0.01
CLIENTS = (16, 32, 64, 128, 256)
SENDERS = (16, 64)
SECONDS = 6.0
READY = "limits server on "

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TEXT = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":" the"},"logprobs":null,"finish_reason":null}]}\n\n'
)
END = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'


@dataclass(frozen=True, slots=True)
class Limit:
    """One run. `offered_per_s` and `seen_per_s` are chunks, `gap_ms` is the median between two as it was
    seen.
    """

    clients: int
    offered_per_s: float | None
    seen_per_s: float
    requests_per_s: float
    cpu_share: float
    lag_ms: float
    gap_ms: float | None
    slow: bool


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Streams:
    """All answers that are going on; each gets a chunk per tick."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Transport, tuple[int, int]] = {}

    def start(self, transport: asyncio.Transport, tokens: int) -> None:
        if tokens <= 2:
            text = _framed(TEXT) * tokens
            transport.write(HEAD + text + _framed(END % tokens) + b"0\r\n\r\n")
            return
        transport.write(HEAD)
        self._open[transport] = tokens, tokens

    def drop(self, transport: asyncio.Transport) -> None:
        self._open.pop(transport, None)

    async def tick(self) -> None:
        loop = asyncio.get_running_loop()
        due, chunk = loop.time(), _framed(TEXT)
        while True:
            due += TICK_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            for transport, (left, tokens) in list(self._open.items()):
                if left:
                    transport.write(chunk)
                    self._open[transport] = left - 1, tokens
                else:
                    transport.write(_framed(END % tokens) + b"0\r\n\r\n")
                    del self._open[transport]


class Client(asyncio.Protocol):
    """Takes requests one after the other; of a body only max_tokens matters."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._streams.drop(self._transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if found and length and len(body) >= int(length[1]):
            self._data = b""
            tokens = re.search(rb'"max_tokens": ?(\d+)', body)
            self._streams.start(self._transport, int(tokens[1]) if tokens else 1)


async def serve() -> None:
    streams = Streams()
    server = await asyncio.get_running_loop().create_server(lambda: Client(streams), "127.0.0.1", 0)
    print(READY + str(server.sockets[0].getsockname()[1]), flush=True)
    await streams.tick()


@contextmanager
def _server() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.sweeps.limits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield f"http://127.0.0.1:{line.removeprefix(READY).strip()}"
        finally:
            process.terminate()


def _run(url: str, clients: int, *options: str) -> Limit:
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "locust", "-f", str(TASKFILE), "--headless", "--only-summary"]
        command += ["--host", url, "--model", "m", "--rows", name, "--send-s", str(SECONDS), "-s", "10s"]
        command += ["-u", str(clients), "-r", str(clients), *options, "Chat"]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS + 60)
        health: dict[str, Any] = json.loads((Path(name) / "worker-0.json").read_text())
        lines = (Path(name) / "requests-0.jsonl").read_text().splitlines()
    seen = [json.loads(line) for line in lines]
    gaps = rows.merged(row["gaps"] for row in seen)
    took_s = health["stopped_at"] - health["began_at"]
    # Health counts an answer's chunks when it has ended; the rows have the times of all of them.
    made = sum(_inside(row, health["began_at"], health["stopped_at"]) for row in seen)
    return Limit(
        clients=clients,
        offered_per_s=None,
        seen_per_s=made / took_s,
        requests_per_s=health["requests"] / took_s,
        cpu_share=health["cpu_share"],
        lag_ms=health["lag_ms"],
        gap_ms=rows.gap_ms(gaps, 0.5),
        slow=health["slow"],
    )


def _inside(row: dict[str, Any], begin: float, end: float) -> float:
    """Chunks of a row that came in this time, its chunks evenly spread."""
    if row["first_at"] is None or row["last_at"] <= row["first_at"]:
        return float(row["chunks"])
    overlap = min(row["last_at"], end) - max(row["first_at"], begin)
    part: float = max(0.0, overlap) / (row["last_at"] - row["first_at"])
    return part * float(row["chunks"])


def measure() -> tuple[list[Limit], list[Limit]]:
    """Runs over chunks, and runs over requests."""
    with _server() as url:
        chunks = []
        for clients in CLIENTS:
            one = _run(url, clients, "--shorter", "0.3", "--longest", "400")
            chunks.append(Limit(**{**asdict(one), "offered_per_s": clients / TICK_S}))
        requests = [_run(url, clients, "--shorter", "0.01", "--longest", "2") for clients in SENDERS]
    return chunks, requests


def show(chunks: list[Limit], requests: list[Limit]) -> dict[str, Any]:
    """Print both tables. Met: some load is held, and who is the bottleneck says so. The server never is: with
    requests that are answered at once it is always the load generator.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    for title, runs in (("Chunks on one core", chunks), ("Requests of two tokens on one core", requests)):
        table = Table(title=title)
        head = (
            "clients",
            "offered/s",
            "chunks/s",
            "requests/s",
            "core",
            "wakes late ms",
            "gap ms",
            "says slow",
        )
        for name in head:
            table.add_column(name, justify="right")
        for one in runs:
            table.add_row(
                str(one.clients),
                "-" if one.offered_per_s is None else f"{one.offered_per_s:,.0f}",
                f"{one.seen_per_s:,.0f}",
                f"{one.requests_per_s:,.0f}",
                f"{one.cpu_share:.0%}",
                f"{one.lag_ms:.1f}",
                "-" if one.gap_ms is None else f"{one.gap_ms:.1f}",
                "yes" if one.slow else "no",
            )
        console.print(table)
    held = [one for one in chunks if not one.slow]
    silent = [one.clients for one in held if one.gap_ms is not None and one.gap_ms > 1.2 * TICK_S * 1000]
    silent += [one.clients for one in requests[-1:] if not one.slow]
    return {
        "benchmark": "sweep",
        "part": "limits",
        "met": bool(held) and not silent,
        "chunks_per_s": max((one.seen_per_s for one in held), default=None),
        "requests_per_s": max((one.requests_per_s for one in requests), default=None),
        "silent": silent,
        "runs": [asdict(one) for one in (*chunks, *requests)],
    }


if __name__ == "__main__":
    asyncio.run(serve())
