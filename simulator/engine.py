"""The engine's heart: runs the scheduler's steps in real time and writes their energy to the board.

A step's duration and energy are known when it starts, so both ends of its piece of the curve are written
then; a reader of the board in the middle of the step sees the power that the step draws. Steps follow one
another at absolute times (simulator/gpu/load.py). Tokens are handed out when their step ends.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from simulator.cards import GpuCard, ModelCard
from simulator.gpu.load import STALL_US, Curve, Load, Turns, now_us
from simulator.metrics import Metrics
from simulator.physics import CardPhysics, Physics
from simulator.sampling import Answer, TextFilter
from simulator.scheduler import Scheduler, Sequence, State, Step
from simulator.tokenizer import token_text
from simulator.truth import Account, Truth, split

TIME_NOISE = 0.01
ENERGY_NOISE = 0.02
"""Standard deviations of the multiplicative noise on a step's time and energy. Chosen."""


class Sink(Protocol):
    """Who hears of a run's progress. Called in the event loop, must not block."""

    def on_token(self, run: Run, token: int, text: str) -> None:
        """A token was made; `run.finish_reason` is set if it was the last."""

    def on_prefilled(self, run: Run) -> None:
        """A prefill-only run is done."""


@dataclass(eq=False, slots=True)
class Run:
    """One sequence on its way through the engine, with the times (monotonic us) that vLLM's metrics need.

    `counts_prompt` is false for the second and later answers to one prompt: usage counts a prompt once.
    """

    sequence: Sequence
    account: Account
    sink: Sink
    answer: Answer
    filter: TextFilter
    index: int = 0
    counts_prompt: bool = True
    min_tokens: int = 0
    ends_itself: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    arrived_us: int = 0
    scheduled_us: int | None = None
    first_token_us: int | None = None
    last_token_us: int | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def output_tokens(self) -> int:
        return self.sequence.output_tokens


class Engine:
    """Serves runs on the GPUs `gpu_indices` of the curve. One event loop's; `run()` is its task.

    `physics` says what a step takes; None: what the cards alone say. `turns` where another engine uses the
    same GPUs.
    """

    def __init__(
        self,
        *,
        model: ModelCard,
        gpu: GpuCard,
        curve: Curve,
        gpu_indices: Many[int],
        scheduler: Scheduler,
        metrics: Metrics,
        physics: Physics | None = None,
        seed: int = 0,
        log_iterations: bool = False,
        stall_us: int = STALL_US,
        turns: Turns | None = None,
    ) -> None:
        self.model = model
        self.gpu = gpu
        self.scheduler = scheduler
        self.metrics = metrics
        self.truth: Truth[Account] = Truth()
        self._load = Load(curve, gpu_indices, stall_us)
        self._turns = turns or Turns()
        self._physics = physics or CardPhysics(model, gpu, len(gpu_indices))
        self._random = random.Random(seed)
        self._log_iterations = log_iterations
        self._runs: dict[Sequence, Run] = {}
        self._work = asyncio.Event()

    @property
    def curve_uj(self) -> int:
        """Energy of the curve since this engine came up, over all its GPUs, without another engine's."""
        return self._load.curve_uj

    @property
    def curve_end_us(self) -> int:
        """Monotonic time of the last point written; it lies ahead while a step runs."""
        return self._load.end_us

    def submit(self, run: Run) -> None:
        """Queue a run. Raises ValueError if it could outgrow the KV cache."""
        self.scheduler.add(run.sequence)
        run.arrived_us = now_us()
        self._runs[run.sequence] = run
        self._work.set()

    def abort(self, run: Run) -> None:
        """Drop a run, queued or running; nothing happens if it has ended."""
        if self._runs.pop(run.sequence, None) is not None:
            self.scheduler.abort(run.sequence)
            self._close(run)

    async def run(self) -> None:
        """Serve until cancelled."""
        idle = True
        while True:
            if not self.scheduler.busy:
                idle = True
                self._work.clear()
                await self._work.wait()
            async with self._turns:
                if not self.scheduler.busy:  # all were aborted while another engine had the GPUs
                    continue
                start_us = self._load.next_us(idle)
                idle = False
                step = self.scheduler.schedule()
                self._begin(step, start_us)
                await asyncio.sleep(max(0, self._load.end_us - now_us()) / 1e6)
            self._hand_out(step)

    def _begin(self, step: Step, start_us: int) -> None:
        """Charge the step: the curve, the requests, the idle time before it."""
        for sequence in step.admitted:
            self._admitted(self._runs[sequence], start_us)
        contexts = [sequence.computed for sequence in step.decode]
        chunks = [prefill.chunk for prefill in step.prefill]
        cost = self._physics.step(contexts, chunks)
        time_us = max(1, round(1e6 * cost.time_s * self._noise(TIME_NOISE)))
        energy_uj = round(1e6 * cost.energy_j * self._noise(ENERGY_NOISE))
        self._load.draw(start_us, time_us, energy_uj)
        self.truth.idle_uj = self._load.idle_uj
        shares = split(energy_uj, cost.decode_j + cost.prefill_j)
        for sequence, share_uj in zip(step.decode, shares, strict=False):
            self._runs[sequence].account.decode_uj += share_uj
        for prefill, share_uj in zip(step.prefill, shares[len(step.decode) :], strict=True):
            self._runs[prefill.sequence].account.prefill_uj += share_uj
        for sequence in step.preempted:
            self._runs[sequence].account.preemptions += 1
        self.metrics.preempted(len(step.preempted))
        self.metrics.step(step.tokens)
        if self._log_iterations:
            self._log(step, time_us)
        self.truth.steps += 1

    def _admitted(self, run: Run, start_us: int) -> None:
        if run.scheduled_us is not None:  # it is back after a preemption
            return
        run.scheduled_us = max(start_us, run.arrived_us)
        if run.counts_prompt:
            run.account.cached_tokens += run.sequence.cached_tokens or 0
        if run.account.scheduled_us is None:
            run.account.scheduled_us = run.scheduled_us

    def _noise(self, deviation: float) -> float:
        return max(0.5, self._random.gauss(1.0, deviation))

    def _hand_out(self, step: Step) -> None:
        """The step is over: draw tokens, end what has ended, tell the sinks."""
        runs = self._runs
        t_us = max(self._load.end_us, now_us())
        for sequence in self.scheduler.complete(step, lambda s: runs[s].answer.next_token()):
            run = runs[sequence]
            if sequence.limit == 0:
                run.finish_reason = "stop"
                self._ended(run, t_us)
                run.sink.on_prefilled(run)
                continue
            self._stamp(run, t_us)
            text = self._read(run)
            if run.finish_reason is not None:
                self._ended(run, t_us)
            run.sink.on_token(run, sequence.tokens[-1], text)

    def _stamp(self, run: Run, t_us: int) -> None:
        run.account.completion_tokens += 1
        if run.first_token_us is None:
            run.first_token_us = t_us
            if run.account.first_token_us is None:
                run.account.first_token_us = t_us
            self.metrics.first_token(
                t_us - run.arrived_us, run.sequence.prompt_tokens, run.sequence.cached_tokens or 0
            )
        else:
            self.metrics.next_token(t_us - (run.last_token_us or t_us))
        run.last_token_us = t_us

    def _read(self, run: Run) -> str:
        """Text of the newest token; sets the finish reason if it is the last."""
        sequence = run.sequence
        token = sequence.tokens[-1]
        at_limit = sequence.state is State.FINISHED
        may_stop = sequence.output_tokens >= run.min_tokens
        text = run.filter.push(token, last=at_limit) if may_stop else token_text(token)
        if run.filter.stopped is not None:
            run.finish_reason, run.stop_reason = "stop", run.filter.stopped
        elif may_stop and token in run.stop_token_ids:
            run.finish_reason, run.stop_reason = "stop", token
        elif at_limit:
            run.finish_reason = "stop" if run.ends_itself else "length"
        if run.finish_reason is not None:
            self.scheduler.finish(sequence)
        return text

    def _ended(self, run: Run, t_us: int) -> None:
        del self._runs[run.sequence]
        run.last_token_us = t_us
        self._close(run)
        self.metrics.finished(run)

    def _close(self, run: Run) -> None:
        run.account.finished_us = now_us()

    def _log(self, step: Step, time_us: int) -> None:
        """One line per step, worded as vLLM's --enable-logging-iteration-details does."""
        context = sum(prefill.chunk.tokens for prefill in step.prefill)
        print(
            f"INFO Engine 000: Iteration({self.truth.steps}): {len(step.prefill)} context requests, "
            f"{context} context tokens, {len(step.decode)} generation requests, "
            f"{len(step.decode)} generation tokens, iteration elapsed time: {time_us / 1000:.2f} ms, "
            f"GPU KV cache usage: {100 * self.scheduler.cache.usage:.1f}%",
            file=sys.stderr,
            flush=True,
        )
