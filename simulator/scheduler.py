"""Continuous batching as vLLM's scheduler does it. Pure: no I/O, no clock, no randomness.

Every step first serves the running sequences in the order of their admission (a decode token, or the next
chunk of a prompt), then admits waiting ones, within `max_num_batched_tokens` tokens. When KV blocks run out,
the sequence admitted last is preempted: its blocks go and it is computed again later, as one prompt made of
its prompt and what it had generated. No sequence is admitted in a step that preempted one.

    schedule() -> Step ...the step runs... complete(step, draw) -> the tokens it made

Between the two, sequences may be added and aborted. Who runs in virtual time need not take every step: after
`quiet_steps() -> n`, `skip(n)` does what n times schedule and complete would do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from simulator.cards import BLOCK_TOKENS
from simulator.kv_cache import KvCache, blocks_for, chain, prefix_keys
from simulator.physics import PrefillChunk


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt and what is generated for it. `limit` tokens at most; 0 means prefill only (embeddings).

    `tokens` is prompt and output, `computed` how many of them are in the KV cache. `cached_tokens` is what
    the prefix cache gave at the first admission, None before it.
    """

    prompt_tokens: int
    limit: int
    tokens: list[int]
    state: State = State.WAITING
    computed: int = 0
    cached_tokens: int | None = None
    preemptions: int = 0
    keys: list[int] = field(default_factory=list)
    opened: int = 0

    @property
    def output_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def blocks(self) -> int:
        """KV blocks that it holds."""
        return len(self.keys) + self.opened


@dataclass(frozen=True, slots=True)
class Prefill:
    """A chunk of `tokens` tokens of `sequence`, after `context`. `last` if it yields the next token."""

    sequence: Sequence
    chunk: PrefillChunk
    last: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine step computes. Empty when nothing can run."""

    decode: list[Sequence]
    prefill: list[Prefill]
    admitted: list[Sequence]
    preempted: list[Sequence]

    @property
    def tokens(self) -> int:
        """Tokens computed in this step."""
        return len(self.decode) + sum(p.chunk.tokens for p in self.prefill)


class Scheduler:
    """The queue, the running set and the KV cache."""

    def __init__(
        self, *, kv_blocks: int, max_num_seqs: int = 256, max_num_batched_tokens: int = 8192
    ) -> None:
        if max_num_seqs < 1 or max_num_batched_tokens < 1:
            raise ValueError("max_num_seqs and max_num_batched_tokens must be at least 1")
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.cache = KvCache(kv_blocks)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._refused = False  # there was no room for the first one waiting, and none has come free since

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue it. Raises ValueError if it is empty or could outgrow the whole KV cache."""
        if not sequence.tokens:
            raise ValueError("a sequence needs at least one prompt token")
        if blocks_for(sequence.prompt_tokens + sequence.limit) > self.cache.total:
            raise ValueError("the sequence could outgrow the KV cache")
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Drop it wherever it is; its blocks are free at once. Nothing happens if it has ended."""
        self._end(sequence, State.ABORTED)

    def finish(self, sequence: Sequence) -> None:
        """End it before its limit: it drew an end token or met a stop string."""
        self._end(sequence, State.FINISHED)

    def _end(self, sequence: Sequence, state: State) -> None:
        if sequence.state is State.RUNNING:
            self.running.remove(sequence)
            self._give_back(sequence)
        elif sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        else:
            return
        sequence.state = state

    def schedule(self) -> Step:
        """Plan the next step and take the KV blocks that it needs."""
        step = Step([], [], [], [])
        budget = self.max_num_batched_tokens
        position = 0
        while position < len(self.running) and budget > 0:
            sequence = self.running[position]
            count = min(len(sequence.tokens) - sequence.computed, budget)
            if not self._make_room(sequence, count, step):
                break
            self._plan(step, sequence, count)
            budget -= count
            position += 1
        while self.waiting and not step.preempted and budget > 0 and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            count = self._admit(sequence, budget)
            if count == 0:
                self._refused = True
                break
            self.waiting.popleft()
            self.running.append(sequence)
            sequence.state = State.RUNNING
            step.admitted.append(sequence)
            self._plan(step, sequence, count)
            budget -= count
        return step

    def complete(self, step: Step, draw: Callable[[Sequence], int]) -> list[Sequence]:
        """The step has run: sequences that made a token, drawn with `draw`, or ended their prefill-only work.

        Those at their limit are finished and hold no blocks any more.
        """
        done: list[Sequence] = []
        for sequence in step.decode:
            if sequence.state is State.RUNNING:
                self._advance(sequence, 1)
                done.append(sequence)
        for prefill in step.prefill:
            if prefill.sequence.state is State.RUNNING:
                self._advance(prefill.sequence, prefill.chunk.tokens)
                if prefill.last:
                    done.append(prefill.sequence)
        for sequence in done:
            if sequence.limit:
                sequence.tokens.append(draw(sequence))
            if sequence.output_tokens >= sequence.limit:
                self.finish(sequence)
        return done

    def quiet_steps(self) -> int:
        """How many steps now follow in which every running sequence decodes and nothing else happens.

        At most: nobody is added or aborted. 0 where the next step may be another.
        """
        if not self.running or len(self.running) > self.max_num_batched_tokens:
            return 0
        if self.waiting and not self._refused and len(self.running) < self.max_num_seqs:
            return 0
        if any(len(s.tokens) - s.computed != 1 or not s.output_tokens for s in self.running):
            return 0
        steps = min(s.limit - s.output_tokens for s in self.running) - 1
        while steps > 0 and sum(self._missing(s, steps) for s in self.running) > self.cache.free:
            steps //= 2
        return steps

    def skip(self, steps: int) -> None:
        """Take so many quiet steps at once; the tokens that they make are zeros."""
        zeros = [0] * steps
        for sequence in self.running:
            missing = self._missing(sequence, steps)
            self.cache.open(missing)
            sequence.opened += missing
            sequence.tokens += zeros
            self._advance(sequence, steps)

    def _plan(self, step: Step, sequence: Sequence, count: int) -> None:
        if sequence.output_tokens and sequence.computed == len(sequence.tokens) - 1:
            step.decode.append(sequence)
            return
        last = sequence.computed + count == len(sequence.tokens)
        step.prefill.append(Prefill(sequence, PrefillChunk(count, sequence.computed), last))

    def _missing(self, sequence: Sequence, count: int) -> int:
        return blocks_for(sequence.computed + count) - sequence.blocks

    def _make_room(self, sequence: Sequence, count: int, step: Step) -> bool:
        """Open the blocks for `count` more tokens, preempting from the end; False if it had to go itself."""
        missing = self._missing(sequence, count)
        while missing > self.cache.free:
            victim = self.running.pop()
            self._give_back(victim)
            victim.state = State.WAITING
            victim.computed = 0
            victim.preemptions += 1
            self.preemptions += 1
            self.waiting.appendleft(victim)
            step.preempted.append(victim)
            if victim is sequence:
                return False
        self.cache.open(missing)
        sequence.opened += missing
        return True

    def _admit(self, sequence: Sequence, budget: int) -> int:
        """Take blocks for the first chunk; how many tokens it has, 0 if there is no room.

        At least one token is always computed, so a wholly cached prompt gives up its last block.
        """
        total = len(sequence.tokens)
        keys = prefix_keys(sequence.tokens[: total - 1])
        keys = keys[: self.cache.match(keys)]
        cached = len(keys) * BLOCK_TOKENS
        count = min(total - cached, budget)
        missing = blocks_for(cached + count) - len(keys)
        if missing + self.cache.cost_of(keys) > self.cache.free:
            return 0
        self.cache.hold(keys)
        self.cache.open(missing)
        sequence.keys = keys
        sequence.opened = missing
        sequence.computed = cached
        if sequence.cached_tokens is None:
            sequence.cached_tokens = cached
        return count

    def _advance(self, sequence: Sequence, count: int) -> None:
        sequence.computed += count
        while (start := len(sequence.keys) * BLOCK_TOKENS) + BLOCK_TOKENS <= sequence.computed:
            previous = sequence.keys[-1] if sequence.keys else 0
            key = chain(previous, sequence.tokens[start : start + BLOCK_TOKENS])
            self.cache.fill(key)
            sequence.keys.append(key)
            sequence.opened -= 1

    def _give_back(self, sequence: Sequence) -> None:
        self._refused = False
        self.cache.release(sequence.keys, sequence.opened)
        sequence.keys = []
        sequence.opened = 0
