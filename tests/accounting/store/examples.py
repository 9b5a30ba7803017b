"""Records and book entries to store, numbered, with any field changed by name."""

from __future__ import annotations

import msgspec

from accounting.records import BookEntry, Correction, GpuShare, RequestRecord

T0_US = 1_790_000_000_000_000
"""When the examples begin: a time of 2026, in UTC microseconds."""


def record(number: int, **changes: object) -> RequestRecord:
    """The request that was the `number`th to finish, one second after the one before."""
    finished_us = T0_US + number * 1_000_000
    whole = RequestRecord(
        uid=f"uid-{number:06}",
        request_id=f"req-{number}",
        backend="main",
        model="llama",
        route="/v1/chat/completions",
        tenant="acme",
        streamed=True,
        status="ok",
        http_status=200,
        error=None,
        started_us=finished_us - 700_000,
        scheduled_us=finished_us - 700_000,
        first_token_us=finished_us - 600_000,
        finished_us=finished_us,
        prompt_tokens=11,
        cached_tokens=None,
        completion_tokens=20,
        tokens_from="engine",
        energy_uj=9_000_001,
        prefill_uj=2_000_000,
        decode_uj=7_000_001,
        uncertainty_uj=400_000,
        unmeasured_us=0,
        method="steps",
        meter="nvml-counter",
        simulated=True,
        state="final",
        shares=[
            GpuShare(gpu="GPU-a", prefill_uj=1_000_000, decode_uj=3_000_001),
            GpuShare(gpu="GPU-b", prefill_uj=1_000_000, decode_uj=4_000_000),
        ],
    )
    return msgspec.structs.replace(whole, **changes)


def correction(number: int, **changes: object) -> Correction:
    """Of the record of the same number, 3 s after its end: prefill gains 2 J, decode loses 0.5 J."""
    of = record(number)
    whole = Correction(
        uid=of.uid,
        request_id=of.request_id,
        corrected_us=of.finished_us + 3_000_000,
        prefill_uj=2_000_000,
        decode_uj=-500_000,
        dynamic_uj=None,
        uncertainty_uj=300_000,
        scheduled_us=of.started_us + 100_000,
        first_token_us=of.started_us + 200_000,
        shares=[
            GpuShare(gpu="GPU-a", prefill_uj=1_500_000, decode_uj=-1_000_000),
            GpuShare(gpu="GPU-b", prefill_uj=500_000, decode_uj=500_000),
        ],
    )
    return msgspec.structs.replace(whole, **changes)


def book(number: int, gpu: str = "GPU-a", **changes: object) -> BookEntry:
    """The `number`th half second of a GPU; 100 uJ measured and booked."""
    whole = BookEntry(
        gpu=gpu,
        t0_us=T0_US + number * 500_000,
        t1_us=T0_US + (number + 1) * 500_000,
        covered_us=500_000,
        measured_uj=100,
        requests_uj=60,
        idle_uj=25,
        unobserved_uj=10,
        unmeasured_uj=5,
        requests=3,
        method="nvml-counter",
        simulated=True,
    )
    return msgspec.structs.replace(whole, **changes)
