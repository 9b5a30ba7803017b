"""Another node's GPUs through `joulegate meter`: every read, once, on our clock, for who has the token."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from accounting.clock import Clock
from accounting.events import CounterReads, MeterDown, MeterUp
from accounting.meters.contract import Meter, MeterEvent
from accounting.meters.peer import PATH
from accounting.meters.remote_http import Token
from proxy import meter_server
from proxy.meter_server import create_meter_app
from simulator.gpu.library import build
from tests.accounting.meters.watching import wait_until
from tests.accounting.meters_remote.hearing import Heard, peer
from tests.accounting.meters_remote.node import Node
from tests.simulator.gpu.machine import Machines

Hear = Callable[[Meter], Heard]
TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machines(tmp_path: Path, compiled: Path) -> Iterator[Machines]:
    made = Machines(tmp_path, compiled)
    yield made
    made.close()


def test_reads_of_a_node_come_as_they_were_made_there(
    hear: Hear, stack: ExitStack, machines: Machines
) -> None:
    machine = machines.make(2)
    node = Node(machine.library)
    stack.callback(node.close)
    clock = Clock.anchored_now()
    begin_us = clock.now_us()
    heard = hear(peer(node.url, clock=clock))
    for uuid in machine.uuids:
        heard.until_reads(uuid, 30)
        up = heard.ups(uuid)[0]
        assert (up.method, up.simulated, up.node) == ("nvml-counter", True, "node7")
        reads = heard.reads(uuid)
        assert begin_us - 2_000_000 < reads[0][0]
        assert reads[-1][1] <= clock.now_us()
        assert [read[0] for read in reads] == sorted(read[0] for read in reads)
        periods = sorted(b[0] - a[0] for a, b in pairwise(reads[5:]))
        assert periods[len(periods) // 2] < 60_000  # it was told that we are in a hurry
        assert heard.kinds(uuid) == "u r"


def test_a_node_that_dies_is_told_and_read_again_when_it_is_back(
    hear: Hear, stack: ExitStack, machines: Machines
) -> None:
    machine = machines.make()
    node = Node(machine.library)
    stack.callback(node.close)
    heard = hear(peer(node.url))
    uuid = machine.uuids[0]
    heard.until_reads(uuid, 2)
    node.kill()
    heard.until_down(uuid, "UNREACHABLE")
    node.start()
    heard.until_up(uuid, times=2)
    heard.until_reads(uuid, 3)
    energies = [mj for *_, mj in heard.reads(uuid)]
    assert energies == sorted(energies)


def test_a_gpu_lost_over_there_is_told_in_the_words_of_there(
    hear: Hear, stack: ExitStack, machines: Machines
) -> None:
    machine = machines.make(2)
    node = Node(machine.library)
    stack.callback(node.close)
    heard = hear(peer(node.url))
    lost, other = machine.uuids
    heard.until_reads(lost, 2)
    machine.board.fault(0, "*", code=15)
    assert "fell off the bus" in heard.until_down(lost, "GPU_IS_LOST").message
    heard.until_reads(other, 5)
    machine.board.heal(0)
    heard.until_up(lost, times=2)
    heard.until_reads(lost, 2)
    assert heard.kinds(other) == "u r"


def test_a_token_is_asked_for_and_never_written_down(
    hear: Hear, stack: ExitStack, machines: Machines, tmp_path: Path
) -> None:
    machine = machines.make()
    node = Node(machine.library, TOKEN)
    stack.callback(node.close)
    file = tmp_path / "token"
    file.write_text("not-it")
    heard = hear(peer(node.url, Token(file=file)))
    down = heard.until_down("*", "UNAUTHORIZED")
    file.write_text(TOKEN)
    heard.until_reads(machine.uuids[0], 2)
    status, said = node.stop()
    assert status == -signal.SIGTERM
    assert TOKEN not in said
    assert TOKEN not in down.message
    assert "Traceback" not in said


# -- a node in this process, whose meter and clock the test sets ---------------------------------------------


class Story:
    """A meter that says what it is told to, and hears whether to hurry."""

    def __init__(self) -> None:
        self.todo: list[MeterEvent] = []
        self.hurries: list[bool] = []
        """Changes of set_busy, from its first True."""

    def start(self) -> None:
        """Nothing to start."""

    def set_busy(self, busy: bool) -> None:
        if busy != (self.hurries[-1:] == [True]):
            self.hurries.append(busy)

    def drain(self) -> Sequence[MeterEvent]:
        todo, self.todo = self.todo, []
        return todo

    def close(self) -> None:
        """Nothing to close."""


def up(t_us: int) -> MeterUp:
    return MeterUp(t_us=t_us, gpu="GPU-a", device="d", method="nvml-counter")


def read(t_us: int, energy_mj: int) -> CounterReads:
    return CounterReads(gpu="GPU-a", t_lo_us=[t_us - 100], t_hi_us=[t_us], energy_mj=[energy_mj])


@pytest.fixture
def serve(stack: ExitStack) -> Callable[[Meter, Clock], str]:
    def start(meter: Meter, clock: Clock) -> str:
        app = create_meter_app(meter, clock, node="node7", token=None)
        server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_config=None))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started, "the server")

        def stop() -> None:
            server.should_exit = True
            thread.join()

        stack.callback(stop)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    return start


@pytest.mark.parametrize("skew_s", [-3600, 5])
def test_a_clock_that_is_off_is_put_right(
    hear: Hear, serve: Callable[[Meter, Clock], str], skew_s: int
) -> None:
    ours = Clock.anchored_now()
    theirs = Clock(ours.offset_us + skew_s * 1_000_000)
    story = Story()
    heard = hear(peer(serve(story, theirs), clock=ours))
    story.todo = [up(theirs.now_us())]
    heard.until_up("GPU-a")
    true_us = ours.now_us()
    story.todo = [read(true_us + skew_s * 1_000_000, 5)]
    heard.until_reads("GPU-a", 1)
    ((lo_us, hi_us, energy_mj),) = heard.reads("GPU-a")
    assert energy_mj == 5
    assert lo_us <= true_us - 100  # the true bracket lies in the one told
    assert true_us <= hi_us
    assert hi_us - lo_us < 1_000_000


def test_what_a_node_knew_long_before_we_came_begins_now(
    hear: Hear, serve: Callable[[Meter, Clock], str]
) -> None:
    clock, story = Clock.anchored_now(), Story()
    url = serve(story, clock)
    begin_us = clock.now_us()
    long_ago_us = begin_us - 86_400_000_000
    lost = MeterDown(t_us=long_ago_us, gpu="GPU-b", code="GPU_IS_LOST", message="m")
    story.todo = [up(long_ago_us), lost]
    wait_until(lambda: not story.todo, "the node hearing its meter")
    heard = hear(peer(url, clock=clock))
    assert heard.until_up("GPU-a").t_us >= begin_us
    assert heard.until_down("GPU-b", "GPU_IS_LOST").t_us >= begin_us
    story.todo = [read(clock.now_us(), 1)]
    heard.until_reads("GPU-a", 1)
    assert heard.kinds("GPU-a") == "u r"


def test_a_node_whose_driver_is_broken_says_so_of_all_that_is_wanted(
    hear: Hear, serve: Callable[[Meter, Clock], str]
) -> None:
    clock, story = Clock.anchored_now(), Story()
    url = serve(story, clock)
    story.todo = [MeterDown(t_us=1, gpu="*", code="DRIVER_NOT_LOADED", message="m")]
    wait_until(lambda: not story.todo, "the node hearing its meter")
    heard = hear(peer(url, clock=clock, gpus=["GPU-a"]))
    heard.until_down("GPU-a", "DRIVER_NOT_LOADED")
    story.todo = [up(clock.now_us())]
    heard.until_up("GPU-a")
    assert heard.kinds("GPU-a") == "d u"


def test_several_may_ask_and_each_hears_all(hear: Hear, serve: Callable[[Meter, Clock], str]) -> None:
    clock, story = Clock.anchored_now(), Story()
    url = serve(story, clock)
    first = hear(peer(url))
    story.todo = [up(clock.now_us())]
    first.until_up("GPU-a")
    second = hear(peer(url))
    second.until_up("GPU-a")
    for energy_mj in range(50):
        story.todo = [read(clock.now_us(), energy_mj)]
        wait_until(lambda: not story.todo, "the node hearing its meter")
    for one in (first, second):
        one.until(lambda one=one: len(one.reads("GPU-a")) >= 50, "fifty reads")  # type: ignore[misc]
        assert [mj for *_, mj in one.reads("GPU-a")] == list(range(50))


def test_who_comes_late_is_told_how_much_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_server, "KEPT", 10)
    clock, story = Clock.anchored_now(), Story()
    with TestClient(create_meter_app(story, clock, node="n", token=None)) as client:
        story.todo = [up(1)]
        before = client.get(PATH).json()
        assert [event["type"] for event in before["events"]] == ["meter"]
        story.todo = [read(1_000 + i, i) for i in range(25)]
        after = client.get(PATH, params={"run": before["run"], "after": before["next"]}).json()
        assert (after["lost"], len(after["events"])) == (15, 10)
        assert after["events"][-1]["energy_mj"] == [24]


def test_the_node_hurries_only_while_somebody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_server, "BUSY_US", 100_000)
    story = Story()
    with TestClient(create_meter_app(story, Clock.anchored_now(), node="n", token=None)) as client:
        client.get(PATH)
        assert story.hurries == []
        client.get(PATH, params={"busy": "1"})
        assert story.hurries[-1:] == [True]
        wait_until(lambda: story.hurries[-1:] == [False], "the end of the hurry")


def test_state_after_a_fault_is_told_to_newcomers() -> None:
    story = Story()
    with TestClient(create_meter_app(story, Clock.anchored_now(), node="n", token=None)) as client:
        story.todo = [up(1), MeterDown(t_us=2, gpu="GPU-a", code="GPU_IS_LOST", message="m")]
        told = client.get(PATH).json()
        assert [(event["type"], event["t_us"]) for event in told["events"]] == [("meter_down", 2)]


def test_only_who_brings_the_token_is_answered() -> None:
    app = create_meter_app(Story(), Clock.anchored_now(), node="n", token=TOKEN)
    with TestClient(app) as client:
        for given in (None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \u00e9"):
            headers = [(b"authorization", given.encode())] if given is not None else []
            answer = client.get(PATH, headers=headers)
            assert answer.status_code == 401, given
            assert TOKEN not in answer.text
        assert client.get(PATH, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert (
            client.get(PATH, headers={"authorization": f"Bearer {TOKEN}"}, params={"after": "x"}).status_code
            == 400
        )


def test_an_address_that_others_reach_needs_a_token() -> None:
    command = [sys.executable, "-m", "joulegate", "meter", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--token-env" in done.stderr
