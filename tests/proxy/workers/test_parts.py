"""The parts of several workers, each by itself."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from yarl import URL

from accounting.events import Tick
from proxy.backends import Backend
from proxy.settings import Settings, load
from proxy.workers.channel import Channel
from proxy.workers.messages import Counts, Drain, FromWorker, Go, Kept, Loads, ToWorker, packed, unpacked


def test_messages_arrive_whole_and_in_order_however_they_are_cut() -> None:
    async def talk() -> tuple[list[FromWorker], bool]:
        heard: list[FromWorker] = []
        gone: list[bool] = []
        one, other = socket.socketpair()
        channel: Channel[FromWorker] = Channel(FromWorker, heard.extend, lambda: gone.append(True))
        collected = bytearray()
        sender: Channel[ToWorker] = await Channel.over(one, ToWorker, lambda _: None, lambda: None)
        sender.say([Tick(t_us=1, source=2, handles=[3], tokens=[4])])
        sender.say([Loads({"a": (1, 2)}), Counts({"a": (1, 2, 3)}, 4)])
        sender.close()
        await sender.closed.wait()
        with other:
            while piece := other.recv(65_536):
                collected += piece
        for byte in collected:
            channel.data_received(bytes([byte]))
        channel.connection_lost(None)
        return heard, gone == [True]

    heard, gone = asyncio.run(talk())
    assert heard == [
        Tick(t_us=1, source=2, handles=[3], tokens=[4]),
        Loads({"a": (1, 2)}),
        Counts({"a": (1, 2, 3)}, 4),
    ]
    assert gone


def test_what_is_said_to_one_that_is_gone_goes_nowhere() -> None:
    async def talk() -> list[ToWorker]:
        heard: list[ToWorker] = []
        one, other = socket.socketpair()
        main: Channel[FromWorker] = await Channel.over(one, FromWorker, lambda _: None, lambda: None)
        worker = await Channel.over(other, ToWorker, heard.extend, lambda: None)
        main.say([Go(7), Kept(8, None)])
        main.close()
        await worker.closed.wait()
        worker.say([Tick(t_us=1, source=1)])
        main.say([Drain()])
        return heard

    assert asyncio.run(talk()) == [Go(7), Kept(8, None)]


def test_settings_reach_a_worker_as_they_are_with_their_secrets(tmp_path: Path) -> None:
    backend = {"id": "a", "url": "http://127.0.0.1:9/base", "api_key": "an engine's secret"}
    settings = load(None, {"backends": [backend], "timeouts": {"idle_s": 7}, "data_dir": tmp_path})
    there = unpacked(packed(settings))
    for name in Settings.model_fields:
        assert getattr(there, name) == getattr(settings, name)
    assert there.backends[0].authorization() == b"Bearer an engine's secret"


def test_a_backend_counts_what_others_have_in_flight_on_it_and_tells_its_own() -> None:
    backend = Backend("a", URL("http://127.0.0.1:9"), [], None)
    backend.begin(work=10)
    backend.elsewhere(3, 300)
    assert (backend.in_flight, backend.work, backend.load) == (4, 310, (1, 10))
    backend.begin(work=20)
    backend.elsewhere(1, 100)
    backend.end(True, work=10)
    assert (backend.in_flight, backend.work, backend.load) == (2, 120, (1, 20))
    backend.elsewhere(0, 0)
    backend.end(True, work=20)
    assert (backend.in_flight, backend.work, backend.load) == (0, 0, (0, 0))
