"""Prompts: the energy of computing them, and the answers that wait while they are computed.

The first is energy: what prompts of half the length would have saved. The second is time: a step that also
computes a piece of a prompt takes longer for everyone in it. By the work model it costs no energy of its own,
so there is no saving to state.
"""

from __future__ import annotations

from dataclasses import replace

from accounting.diagnosis.findings import Finding, RuledOut, Verdict, rounded, uncertainty_uj
from accounting.diagnosis.project import Load, Prices, as_it_came, load_of, served, total
from accounting.diagnosis.window import PRE, PREQ, STEPS, Backend, Window

LEAST = 0.25
"""Part of the energy, or of the time, that prompts have to take."""


def look(window: Window) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for backend in window.backends:
        if backend.worked:
            verdicts += [_energy(backend, window), _time(backend)]
    return verdicts


def _energy(backend: Backend, window: Window) -> Verdict:
    prices, times = Prices(backend.newest.prices), Prices(backend.newest.times)
    whole = total([load_of(one) for one in backend.worked])
    prompts_j = prices.of[PRE] * whole.prompt + prices.of[PREQ] * whole.prompt_reads
    energy_j = sum(one.learnt_uj for one in backend.worked) / 1e6
    part = prompts_j / energy_j if energy_j else 0.0
    spent = window.spent_by(backend.name, "ok")
    prompt = sum(s.prompt_tokens or 0 for s in spent)
    evidence = {
        "part_of_energy": rounded(part),
        "prompt_tokens_per_answer_token": rounded(whole.prompt / max(whole.tokens, 1.0)),
        "cached_part_of_prompts": rounded(
            sum(s.cached_tokens or 0 for s in spent) / prompt if prompt else None
        ),
        "joules_per_1000_prompt_tokens": rounded(1000 * prompts_j / whole.prompt if whole.prompt else None),
    }
    if part < LEAST:
        why = f"prompts took {part:.0%} of the energy"
        return RuledOut(cause="prefill", backend=backend.name, why=why, evidence=evidence)
    loads = as_it_came(backend.worked)
    limit = max((one.seats or 0 for one in backend.worked), default=0) or float("inf")
    now = served(loads, prices, times, limit)
    then = served([_halved(load, backend) for load in loads], prices, times, limit)
    wall_s = max(backend.settled_s, now.busy_s, then.busy_s)
    saved_j = now.drawn_j(wall_s, backend.static_w) - then.drawn_j(wall_s, backend.static_w)
    return Finding(
        cause="prefill",
        kind="work",
        backend=backend.name,
        what=f"{part:.0%} of the energy computed prompts",
        change="compute half of the prompt tokens: shorter prompts, or a prefix that the cache holds",
        joules_uj=round(prompts_j * 1e6),
        saving_uj=round(saved_j * 1e6),
        uncertainty_uj=uncertainty_uj(saved_j * 1e6, backend.newest.price_error, now.batch, then.batch),
        evidence=evidence,
    )


def _halved(load: Load, backend: Backend) -> Load:
    """With prompts of half the length: a quarter of their attention, and less context for the answers."""
    requests = max(sum(one.arrived for one in backend.worked), 1)
    prompt = sum(one.work[PRE] for one in backend.worked) / requests
    reads = max(load.decoded_reads - load.decoded * prompt / 2, 0.0)
    return replace(load, prompt=load.prompt / 2, prompt_reads=load.prompt_reads / 4, decoded_reads=reads)


def _time(backend: Backend) -> Verdict:
    times = Prices(backend.newest.times)
    whole = total([load_of(one) for one in backend.worked])
    prompts_s = times.of[PRE] * whole.prompt + times.of[PREQ] * whole.prompt_reads
    busy_s = sum(one.learnt_us for one in backend.worked) / 1e6
    steps = sum(one.work[STEPS] for one in backend.worked)
    part = prompts_s / busy_s if busy_s else 0.0
    evidence = {
        "part_of_time": rounded(part),
        "ms_between_tokens": rounded(1000 * busy_s / steps if steps else None),
        "ms_without_prompts": rounded(1000 * max(busy_s - prompts_s, 0.0) / steps if steps else None),
    }
    if part < LEAST:
        why = f"prompts took {part:.0%} of the time"
        return RuledOut(cause="prefill-interference", backend=backend.name, why=why, evidence=evidence)
    return Finding(
        cause="prefill-interference",
        kind="work",
        backend=backend.name,
        what=f"answers waited {part:.0%} of the time for prompts in the same steps",
        change="smaller chunks of prompts (max_num_batched_tokens), or prompts on GPUs of their own",
        joules_uj=None,
        saving_uj=None,
        uncertainty_uj=None,
        evidence=evidence,
    )
