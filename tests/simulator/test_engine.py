"""The engine in real time on a real board: where the energy goes, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from simulator.cards import H100, TINY
from simulator.engine import Engine, Run
from simulator.gpu import board
from simulator.gpu.board import Board
from simulator.metrics import Metrics
from simulator.sampling import Answer, TextFilter
from simulator.scheduler import Scheduler, Sequence
from simulator.truth import Account, split

START_UJ = 5_000_000


class Listener:
    """Counts what it is told, and says when a run has ended."""

    def __init__(self) -> None:
        self.tokens = 0
        self.fifth = asyncio.Event()
        self.ended = asyncio.Event()

    def on_token(self, run: Run, token: int, text: str) -> None:
        self.tokens += 1
        if self.tokens == 5:
            self.fifth.set()
        if run.finish_reason is not None:
            self.ended.set()

    def on_prefilled(self, run: Run) -> None:
        self.ended.set()


def new_run(engine: Engine, listener: Listener, prompt: int, limit: int, start: int = 0) -> Run:
    account = Account(f"r{start}", 0)
    engine.truth.open(account)
    tokens = list(range(start, start + prompt))
    run = Run(Sequence(prompt, limit, tokens), account, listener, Answer(start), TextFilter())
    engine.submit(run)
    return run


def with_engine(directory: Path, gpus: int, use: Callable[[Engine, Board], Awaitable[None]]) -> None:
    """Run `use` beside a tiny engine on a new board whose curves do not begin at 0."""
    curve = Board.create(directory / "board", [board.H100.numbered(n) for n in range(gpus)])
    for gpu in range(gpus):
        curve.extend(gpu, board.monotonic_us(), START_UJ)

    async def main() -> None:
        scheduler = Scheduler(kv_blocks=64, max_num_seqs=8, max_num_batched_tokens=64)
        engine = Engine(
            model=TINY,
            gpu=H100,
            curve=curve,
            gpu_indices=range(gpus),
            scheduler=scheduler,
            metrics=Metrics("tiny"),
            stall_us=10**9,
        )
        task = asyncio.create_task(engine.run())
        try:
            await use(engine, curve)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("gpus", [1, 3])
def test_requests_and_idle_are_the_whole_curve(tmp_path: Path, gpus: int) -> None:
    async def use(engine: Engine, curve: Board) -> None:
        first_us = engine.curve_end_us
        begin_uj = [curve.energy_uj(gpu, first_us) for gpu in range(gpus)]
        listeners = [Listener() for _ in range(12)]
        runs = [new_run(engine, one, 20 + k, 30, start=1000 * k) for k, one in enumerate(listeners)]
        await listeners[0].fifth.wait()
        engine.abort(runs[0])
        engine.abort(runs[-1])
        await asyncio.gather(*(one.ended.wait() for one in listeners[1:-1]))
        late = Listener()  # after idleness
        new_run(engine, late, 100, 0, start=50_000)
        await late.ended.wait()
        written_uj = sum(curve.last(gpu)[1] for gpu in range(gpus)) - sum(begin_uj)
        assert written_uj == engine.curve_uj
        assert engine.truth.requests_uj + engine.truth.idle_uj == written_uj
        assert engine.truth.requests_uj == sum(account.energy_uj for account in engine.truth.find())
        assert engine.truth.idle_uj > 0
        assert [one.tokens for one in listeners[1:-1]] == [30] * 10
        assert 5 <= listeners[0].tokens < 30
        assert listeners[-1].tokens == 0

    with_engine(tmp_path, gpus, use)


def test_the_board_shows_a_step_while_it_runs(tmp_path: Path) -> None:
    async def use(engine: Engine, curve: Board) -> None:
        listener = Listener()
        run = new_run(engine, listener, 10, 50)
        await listener.fifth.wait()
        end_us = engine.curve_end_us
        assert curve.last(0)[0] == end_us
        # A step of the tiny model takes 1.5 ms: its last 1 ms is drawn at busy power, what follows at idle.
        in_step_uj = curve.energy_uj(0, end_us) - curve.energy_uj(0, end_us - 1000)
        beyond_uj = curve.energy_uj(0, end_us + 1000) - curve.energy_uj(0, end_us)
        assert in_step_uj > 2 * 1000 * H100.idle_power_w
        assert beyond_uj == pytest.approx(1000 * H100.idle_power_w)
        assert engine.curve_end_us == end_us  # nothing else ran meanwhile
        engine.abort(run)

    with_engine(tmp_path, 1, use)


def test_steps_follow_one_another_without_drift(tmp_path: Path) -> None:
    async def use(engine: Engine, curve: Board) -> None:
        listener = Listener()
        run = new_run(engine, listener, 10, 200)
        await listener.ended.wait()
        scheduled_us = run.scheduled_us
        assert scheduled_us is not None
        # 200 back-to-back steps: not a microsecond at idle power between them, whatever the timer's grain.
        assert engine.truth.steps == 200
        whole_uj = curve.energy_uj(0, engine.curve_end_us) - curve.energy_uj(0, scheduled_us)
        assert run.account.energy_uj == whole_uj

    with_engine(tmp_path, 1, use)


def test_decode_and_prefill_energy_are_told_apart(tmp_path: Path) -> None:
    async def use(engine: Engine, _: Board) -> None:
        one, other = Listener(), Listener()
        prefill_only = new_run(engine, one, 50, 0)
        single = new_run(engine, other, 50, 1, start=5000)
        await asyncio.gather(one.ended.wait(), other.ended.wait())
        assert prefill_only.account.decode_uj == single.account.decode_uj == 0
        assert prefill_only.account.prefill_uj > 0
        assert single.account.prefill_uj > 0
        third = Listener()
        longer = new_run(engine, third, 50, 20, start=9000)
        await third.ended.wait()
        assert longer.account.decode_uj > longer.account.prefill_uj

    with_engine(tmp_path, 1, use)


def test_an_engine_continues_a_curve_that_ends_in_the_future(tmp_path: Path) -> None:
    curve = Board.create(tmp_path / "board", [board.H100])
    ahead_us = board.monotonic_us() + 30_000
    curve.extend(0, ahead_us, 20_000_000)

    async def main() -> None:
        scheduler = Scheduler(kv_blocks=64)
        engine = Engine(
            model=TINY, gpu=H100, curve=curve, gpu_indices=[0], scheduler=scheduler, metrics=Metrics("tiny")
        )
        task = asyncio.create_task(engine.run())
        listener = Listener()
        run = new_run(engine, listener, 10, 2)
        await listener.ended.wait()
        task.cancel()
        assert run.scheduled_us is not None
        assert run.scheduled_us >= ahead_us
        assert curve.last(0)[1] == 20_000_000 + engine.curve_uj

    asyncio.run(main())


def test_split_loses_nothing() -> None:
    assert split(10, [1.0, 1.0, 1.0]) == [4, 3, 3]
    assert sum(split(999_999_999_999, [0.1, 2.7, 3.3])) == 999_999_999_999
