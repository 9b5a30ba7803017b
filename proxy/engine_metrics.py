"""Polls the engines' own counters: /metrics of those that are vLLM, made into `EngineCounters` events.

The count of the histogram `iteration_tokens_total` is the number of steps the engine has taken (vLLM 0.32 as
observed); vLLM-Omni tells how many images and videos run and wait. Only engines that call themselves vllm in
/v1/models are asked; one that answers 404, or has none of these names, is left alone for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import httpx
import msgspec

from accounting.events import EngineCounters
from proxy.backends import Backend

log = logging.getLogger(__name__)

OWNER = "vllm"
NAMES = {
    "vllm:iteration_tokens_total_count": "steps",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prompt_tokens_cached_total": "cached_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:kv_cache_usage_perc": "kv_used",
    "vllm_omni:num_requests_running": "running",
    "vllm_omni:num_requests_waiting": "waiting",
}
"""Names at /metrics and what they are called in the event."""

MEANS = {"kv_used"}
"""Parts of a whole: of several engines their mean, not their sum."""

MAX_BYTES = 16 * 1024 * 1024
"""A vLLM's /metrics is some 100 kB."""


class Unusable(Exception):
    """The engine has no counters for us, and is not likely to have any soon."""


class Refused(Exception):
    """It did not answer this time."""


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks: while requests run, when none does, after a look that found no counters.

    An answer that takes longer than `timeout_s` is given up.
    """

    busy_s: float = 1.0
    idle_s: float = 5.0
    none_s: float = 60.0
    timeout_s: float = 2.0


class EngineMetrics:
    """`run` polls every backend until cancelled; `say` is given what they tell."""

    def __init__(
        self,
        backends: Sequence[Backend],
        say: Callable[[EngineCounters], None],
        now_us: Callable[[], int],
        pace: Pace | None = None,
    ) -> None:
        self._backends, self._say, self._now_us = backends, say, now_us
        self._pace = pace or Pace()

    async def run(self) -> None:
        polls: dict[Backend, asyncio.Task[None]] = {}
        async with httpx.AsyncClient(timeout=self._pace.timeout_s) as client, asyncio.TaskGroup() as group:
            while True:
                for backend in self._backends:  # they may change while this runs
                    if backend not in polls:
                        polls[backend] = group.create_task(self._poll(client, backend))
                for gone in polls.keys() - set(self._backends):
                    polls.pop(gone).cancel()
                await asyncio.sleep(self._pace.busy_s)

    async def _poll(self, client: httpx.AsyncClient, backend: Backend) -> None:
        """One backend, one look at a time. A fault is told once, until there is another or it is over."""
        pace = self._pace
        fault = ""
        while True:
            if not _is_vllm(backend) or backend.up is False:
                await asyncio.sleep(pace.busy_s)  # it may come up; asking for that is others' work
                continue
            try:
                counters = await self._look(client, backend)
            except (Unusable, Refused) as error:
                if str(error) != fault:
                    fault = str(error)
                    log.warning("backend %s gives no counters: %s", backend.id, fault)
                await asyncio.sleep(pace.none_s if isinstance(error, Unusable) else pace.idle_s)
                continue
            fault = ""
            self._say(counters)
            if not counters.running and not counters.waiting:
                await self._rest(backend)
            else:
                await asyncio.sleep(pace.busy_s)

    async def _rest(self, backend: Backend) -> None:
        """Wait for the next look at an engine that does nothing; shorter if it gets work meanwhile."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._pace.idle_s
        while (left_s := until_s - loop.time()) > 0:
            await asyncio.sleep(min(self._pace.busy_s, left_s))
            if backend.in_flight:
                return

    async def _look(self, client: httpx.AsyncClient, backend: Backend) -> EngineCounters:
        """Raises Unusable, Refused."""
        url = str(backend.target("/metrics", b""))
        body = bytearray()
        try:
            asking = client.stream("GET", url, headers=backend.credentials())
            async with asyncio.timeout(self._pace.timeout_s), asking as answer:
                if answer.status_code == 404:
                    raise Unusable("there is no /metrics")
                if answer.status_code != 200:
                    raise Refused(f"/metrics answers {answer.status_code}")
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise Unusable("/metrics has no end")
        except TimeoutError as error:
            raise Refused(f"/metrics took longer than {self._pace.timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise Refused(f"{type(error).__name__} at /metrics") from error
        values = read(body.decode("utf-8", "replace"))
        if not values:
            raise Unusable("/metrics has none of vLLM's names")
        empty = EngineCounters(t_us=self._now_us(), backend=backend.id)
        return msgspec.structs.replace(empty, **values)


def _is_vllm(backend: Backend) -> bool:
    return any(card.get("owned_by") == OWNER for card in backend.models.values())


def read(text: str) -> dict[str, float]:
    """The wanted figures of a page in Prometheus' format, each summed over its labels (engines, models).

    All but MEANS are whole. A figure of which one part is no number is left out: its sum would be wrong.
    """
    parts: dict[str, list[float]] = {}
    for name, value in _samples(text):
        parts.setdefault(name, []).append(value)
    sums = {name: sum(values) / (len(values) if name in MEANS else 1) for name, values in parts.items()}
    known = {name: value for name, value in sums.items() if math.isfinite(value)}
    return {name: value if name in MEANS else round(value) for name, value in known.items()}


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if not line.startswith(("vllm:", "vllm_omni:")):
            continue
        name, brace, rest = line.partition("{")
        if brace:
            # The value comes after the last brace: what labels hold may have braces in it.
            rest = rest.rpartition("}")[2]
        else:
            name, _, rest = line.partition(" ")
        wanted = NAMES.get(name.strip())
        if wanted is not None:
            words = rest.split()  # the value, at times followed by a time
            yield wanted, _number(words[0]) if words else math.nan


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if 0 <= value < 2**63 else math.nan
