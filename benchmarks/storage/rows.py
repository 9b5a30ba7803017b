"""Requests to store: thirty days of five models, of five projects with two keys each, on one GPU."""

from __future__ import annotations

import random
from collections.abc import Iterator

from accounting.records import GpuShare, RequestRecord, uid_at
from accounting.store.sums import DAY_US

DAYS = 30
BATCH = 2_000
"""As many as the writer puts into one transaction."""


def batches(count: int, end_us: int) -> Iterator[list[RequestRecord]]:
    """`count` requests, spread evenly over the DAYS before `end_us`, in the order of their end."""
    chance = random.Random(1)
    step_us = DAYS * DAY_US // count
    made: list[RequestRecord] = []
    for number in range(count):
        made.append(_record(number, end_us - (count - number) * step_us, chance))
        if len(made) == BATCH:
            yield made
            made = []
    if made:
        yield made


def _record(number: int, finished_us: int, chance: random.Random) -> RequestRecord:
    started_us = finished_us - 1_500_000
    project = f"project-{chance.randrange(5)}"
    prefill_uj, decode_uj = chance.randrange(10**7), chance.randrange(10**8)
    return RequestRecord(
        uid=f"{uid_at(started_us)}{number:020x}",
        request_id=f"chatcmpl-{chance.getrandbits(96):024x}",
        backend="vllm-0",
        model=f"model-{chance.randrange(5)}",
        route="/v1/chat/completions",
        tenant=project,
        project=project,
        api_key=f"{project}-key-{chance.randrange(2)}",
        streamed=True,
        status="ok",
        http_status=200,
        error=None,
        started_us=started_us,
        first_token_us=started_us + 200_000,
        finished_us=finished_us,
        prompt_tokens=chance.randrange(4_000),
        cached_tokens=0,
        completion_tokens=chance.randrange(1_000),
        tokens_from="engine",
        energy_uj=prefill_uj + decode_uj,
        prefill_uj=prefill_uj,
        decode_uj=decode_uj,
        dynamic_uj=decode_uj // 2,
        uncertainty_uj=decode_uj // 50,
        unmeasured_us=0,
        method="work-model",
        meter="nvml-counter",
        simulated=True,
        state="final",
        shares=[GpuShare(gpu="GPU-5e1f4c1a", prefill_uj=prefill_uj, decode_uj=decode_uj)],
    )
