"""A diffusion server and a language model on one GPU, in virtual time: two processes that take turns.

Where both have work, a step of the language model and a slice of the diffusion server's work follow each
other, as the simulator's engines do in real time (simulator/gpu/load.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from accounting.events import FirstToken, ModelCard, RequestFinished, RequestStarted, Tick, Usage
from benchmarks.diffusions import told
from benchmarks.diffusions.told import Curve, Timed, micros
from simulator.cards import GPUS, LLAMA_8B, kv_blocks
from simulator.diffusion.engine import SLICE_S
from simulator.diffusion.physics import DiffusionPhysics
from simulator.diffusion.scheduler import Piece
from simulator.diffusion.virtual import VirtualJob, VirtualServer
from simulator.physics import CardPhysics
from simulator.scheduler import Scheduler
from simulator.scheduler import Sequence as Tokens

BACKEND = "chats"
FIRST_HANDLE = 1_000_000
TICK_S = 0.25


@dataclass(eq=False, slots=True)
class Chat:
    """A request to the language model: when each of its tokens came, and its true energy."""

    arrives_s: float
    prompt_tokens: int
    answer_tokens: int
    tokens_s: list[float] = field(default_factory=list)
    energy_j: float = 0.0


def chats(per_s: float, begin_s: float, length_s: float, seed: int) -> list[Chat]:
    draw = random.Random(seed)
    found, now_s = [], begin_s
    while (now_s := now_s + draw.expovariate(per_s)) < begin_s + length_s:
        prompt, answer = (int(draw.lognormvariate(np.log(median), 0.7)) + 2 for median in (300, 150))
        found.append(Chat(now_s, prompt, answer))
    return found


class Pair:
    """Both servers and the GPU's one clock."""

    def __init__(self, physics: DiffusionPhysics, gpu: str, noise: random.Random) -> None:
        self._media = VirtualServer(physics, noise=noise)
        self._physics = CardPhysics(LLAMA_8B, GPUS[gpu], 1)
        # Room for both models: half of the GPU's KV blocks.
        blocks = kv_blocks(LLAMA_8B, GPUS[gpu], 1) // 2
        self._scheduler = Scheduler(kv_blocks=blocks, max_num_seqs=64, max_num_batched_tokens=2048)
        self._chats: dict[Tokens, Chat] = {}
        self._idle_w = GPUS[gpu].idle_power_w
        self._piece: tuple[Piece, float, float] | None = None  # what runs, its time and energy still to come
        self._points = [(0.0, 0.0)]
        self._serial = 0

    def serve(self, jobs: Sequence[VirtualJob], asked: Sequence[Chat], tail_s: float) -> Curve:
        coming: list[VirtualJob | Chat] = sorted([*jobs, *asked], key=lambda one: one.arrives_s)
        position, media_next = 0, False
        while True:
            now_s = self._points[-1][0]
            while position < len(coming) and coming[position].arrives_s <= now_s:
                self._arrive(coming[position])
                position += 1
            media, chat = self._media.busy or self._piece is not None, self._scheduler.busy
            if not media and not chat:
                if position == len(coming):
                    break
                self._pass(
                    coming[position].arrives_s - now_s, self._idle_w * (coming[position].arrives_s - now_s)
                )
            elif media and (media_next or not chat):
                self._slice()
                media_next = False
            else:
                self._step()
                media_next = True
        self._pass(tail_s, self._idle_w * tail_s)
        time_s, energy_j = np.array(self._points).T
        return Curve(time_s, energy_j)

    def _arrive(self, one: VirtualJob | Chat) -> None:
        if isinstance(one, VirtualJob):
            self._media.arrive(one)
            return
        self._serial += 1
        prompt = [-self._serial, *([0] * (one.prompt_tokens - 1))]
        tokens = Tokens(one.prompt_tokens, one.answer_tokens, prompt)
        self._chats[tokens] = one
        self._scheduler.add(tokens)

    def _pass(self, time_s: float, energy_j: float) -> None:
        now_s, drawn_j = self._points[-1]
        self._points.append((now_s + time_s, drawn_j + energy_j))

    def _slice(self) -> None:
        piece, left_s, left_j = self._piece or self._media.begin(self._points[-1][0])
        part = min(1.0, SLICE_S / left_s)
        self._pass(part * left_s, part * left_j)
        self._piece = (piece, (1 - part) * left_s, (1 - part) * left_j)
        if part == 1.0:
            self._piece = None
            self._media.end(piece, self._points[-1][0])

    def _step(self) -> None:
        step = self._scheduler.schedule()
        contexts = [tokens.computed for tokens in step.decode]
        cost = self._physics.step(contexts, [prefill.chunk for prefill in step.prefill])
        self._pass(cost.time_s, cost.energy_j)
        for tokens, share_j in zip(step.decode, cost.decode_j, strict=True):
            self._chats[tokens].energy_j += share_j
        for prefill, share_j in zip(step.prefill, cost.prefill_j, strict=True):
            self._chats[prefill.sequence].energy_j += share_j
        for tokens in self._scheduler.complete(step, lambda _: 0):
            self._chats[tokens].tokens_s.append(self._points[-1][0])


def tell(asked: Sequence[Chat]) -> Timed:
    """The chats as the proxy tells them; the uid of the k-th is `c<k>`."""
    timed: Timed = []
    for number, chat in enumerate(asked):
        handle, first_s, end_s = FIRST_HANDLE + number, chat.tokens_s[0], chat.tokens_s[-1]
        started = RequestStarted(
            t_us=micros(chat.arrives_s),
            handle=handle,
            uid=f"c{number}",
            request_id=f"c{number}",
            backend=BACKEND,
            model="m",
            route="/v1/chat/completions",
            streamed=True,
            body_bytes=200 + 4 * chat.prompt_tokens,
        )
        usage = Usage(prompt_tokens=chat.prompt_tokens, cached_tokens=0, completion_tokens=chat.answer_tokens)
        finished = RequestFinished(
            t_us=micros(end_s), handle=handle, status="ok", http_status=200, usage=usage
        )
        timed.append((chat.arrives_s, told.STARTED, started))
        timed.append((first_s, told.FIRST, FirstToken(t_us=micros(first_s), handle=handle)))
        timed.append((end_s, told.FINISHED, finished))
    return timed


def ticks(asked: Sequence[Chat], until_s: float) -> Timed:
    """What was streamed since the tick before, at even moments and before each end."""
    token_s = np.concatenate([chat.tokens_s for chat in asked])
    whose = np.repeat(np.arange(len(asked)), [len(chat.tokens_s) for chat in asked])
    order = np.argsort(token_s, kind="stable")
    token_s, whose = token_s[order], whose[order]
    even = np.arange(TICK_S, until_s + TICK_S, TICK_S)
    moments = np.unique(np.concatenate([even, [chat.tokens_s[-1] for chat in asked]]))
    upto = np.searchsorted(token_s, moments, side="right")
    timed: Timed = []
    before = 0
    for at_s, until in zip(moments.tolist(), upto.tolist(), strict=True):
        who, counts = np.unique(whose[before:until], return_counts=True)
        tick = Tick(
            t_us=micros(at_s), source=0, handles=(who + FIRST_HANDLE).tolist(), tokens=counts.tolist()
        )
        timed.append((at_s, told.TICK, tick))
        before = until
    return timed


def card() -> ModelCard:
    return ModelCard(
        name=LLAMA_8B.name,
        total_params=LLAMA_8B.total_params,
        active_params=LLAMA_8B.active_params,
        layers=LLAMA_8B.layers,
        hidden=LLAMA_8B.hidden,
        kv_bytes_per_token=LLAMA_8B.kv_bytes_per_token,
        weight_bytes=LLAMA_8B.weight_bytes,
    )
