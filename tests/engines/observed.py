"""The ledger's picture of a real vLLM beside the engine's own: `python -m tests.engines.observed [--write]`.

Prints the tables of docs/engines.md; with --write puts them there. Takes about four minutes: two runs, with
and without the times that vLLM tells in its answers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tests.engines.iterations import within
from tests.engines.ledger_view import Booked
from tests.engines.mixed_load import Kind
from tests.engines.observed_run import Run, observe
from tests.engines.spans import Span

PAGE: Final = Path(__file__).parents[2] / "docs" / "engines.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

PHASE_S: Final = 25.0
QUEUED_US: Final = 50_000
"""A request waited for a seat when the engine had it in its queue for longer than this."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One request as the engine saw it; its sequences together. Times in UTC microseconds."""

    queue_us: int
    scheduled_us: int
    prefill_us: int
    first_us: int
    decode_us: int

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Engine:
        begin = min(spans, key=lambda span: span.scheduled_us)
        first_us = begin.scheduled_us + begin.prefill_us
        last_us = max(span.scheduled_us + span.prefill_us + span.decode_us for span in spans)
        return cls(begin.queue_us, begin.scheduled_us, begin.prefill_us, first_us, last_us - first_us)


@dataclass(frozen=True, slots=True)
class Pairing:
    """One request, both pictures."""

    kind: Kind
    engine: Engine
    ledger: Booked
    computed: int
    """Prompt tokens that were not cached, of all its sequences."""
    decoded: int
    """Tokens after the first of each sequence."""

    @property
    def queued(self) -> bool:
        return self.engine.queue_us > QUEUED_US

    @property
    def queue_difference_us(self) -> int:
        """The ledger leaves out as queueing what lies before the prefill window."""
        return (self.ledger.prefill_from_us - self.ledger.start_us) - self.engine.queue_us

    @property
    def prefill_start_difference_us(self) -> int:
        return self.ledger.prefill_from_us - self.engine.scheduled_us

    @property
    def prefill_difference_us(self) -> int:
        return (self.ledger.prefill_to_us - self.ledger.prefill_from_us) - self.engine.prefill_us

    @property
    def first_difference_us(self) -> int:
        return self.ledger.first_us - self.engine.first_us

    @property
    def decode_difference_us(self) -> int:
        return (self.ledger.end_us - self.ledger.first_us) - self.engine.decode_us


def pairings(run: Run) -> list[Pairing]:
    """Every request of the run that both sides know. Raises KeyError where one of them does not."""
    spans = defaultdict(list)
    for span in run.spans:
        spans[span.request_id.removeprefix("chatcmpl-")].append(span)
    booked = run.ledger.by_request_id()
    records = {record.request_id: record for record in run.ledger.records}
    found = []
    for sent in run.sent:
        record, mine = records[sent.request_id], spans[sent.request_id]
        if len(mine) != sent.kind.sequences:
            raise KeyError(f"{sent.request_id} has {len(mine)} spans")
        computed = (record.prompt_tokens or 0) * sent.kind.sequences - (record.cached_tokens or 0)
        decoded = (record.completion_tokens or 0) - sent.kind.sequences
        found.append(Pairing(sent.kind, Engine.of(mine), booked[sent.request_id], computed, decoded))
    return found


# -- totals ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Total:
    """One quantity over a whole run."""

    name: str
    engine: float
    ledger: float

    @property
    def relative(self) -> float:
        return self.ledger / self.engine - 1.0


def totals(run: Run) -> list[Total]:
    """What was done in all: as the records of the requests have it; as the intervals had it when they were
    settled; and as the work model learns it, after late news."""
    prompt = sum(it.prompt_tokens for it in run.iterations)
    decoded = sum(it.decoded for it in run.iterations)
    pairs, slices = pairings(run), run.ledger.slices
    return [
        Total("prompt tokens computed, by the records", prompt, sum(p.computed for p in pairs)),
        Total("tokens after the first, by the records", decoded, sum(p.decoded for p in pairs)),
        Total("prompt tokens computed, by intervals", prompt, sum(s.prompt_tokens for s in slices)),
        Total("tokens after the first, by intervals", decoded, sum(s.decoded for s in slices)),
        Total("steps, by intervals", len(run.iterations), sum(s.steps for s in slices)),
        Total("prompt tokens computed, as learnt from", prompt, run.ledger.learnt["pre"]),
        Total("tokens after the first, as learnt from", decoded, run.ledger.learnt["dec"]),
        Total("steps, as learnt from", len(run.iterations), run.ledger.learnt["steps"]),
    ]


@dataclass(frozen=True, slots=True)
class KindTotal:
    """One kind of request over a whole run: what the engine did, and what the intervals charged."""

    name: str
    requests: int
    computed: int
    charged_prompt: float
    decoded: int
    charged_decode: float


def kind_totals(run: Run) -> list[KindTotal]:
    by_name = defaultdict(list)
    for pair in pairings(run):
        by_name[pair.kind.name].append(pair)
    return [
        KindTotal(
            name=name,
            requests=len(mine),
            computed=sum(p.computed for p in mine),
            charged_prompt=sum(p.ledger.charged_prompt for p in mine),
            decoded=sum(p.decoded for p in mine),
            charged_decode=sum(p.ledger.charged_decode for p in mine),
        )
        for name, mine in sorted(by_name.items())
    ]


# -- differences -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Differences:
    """Ledger minus engine, of one quantity over many intervals or requests."""

    name: str
    unit: str
    engine: list[float]
    ledger_minus_engine: list[float]

    @property
    def median(self) -> float:
        return float(np.median(self.ledger_minus_engine))

    @property
    def p90(self) -> float:
        """Nine in ten differ by no more than this, in whatever direction."""
        return float(np.percentile(np.abs(self.ledger_minus_engine), 90))


def interval_differences(run: Run) -> list[Differences]:
    """Over the intervals in which the engine made a step."""
    both = [(s, within(run.iterations, s.t0_us, s.t1_us)) for s in run.ledger.slices]
    both = [(ours, theirs) for ours, theirs in both if theirs.steps]
    return [
        Differences(
            name,
            unit,
            [getattr(theirs, column) for _, theirs in both],
            [getattr(ours, column) - getattr(theirs, column) for ours, theirs in both],
        )
        for name, unit, column in (
            ("steps", "steps", "steps"),
            ("prompt tokens computed", "tokens", "prompt_tokens"),
            ("tokens after the first", "tokens", "decoded"),
        )
    ]


GROUPS: Final = (("streamed, no queue", True, False), ("streamed, queued", True, True))
GROUPS_WHOLE: Final = (("whole, no queue", False, False), ("whole, queued", False, True))

QUANTITIES: Final = (
    ("queue time", "queue_us", "queue_difference_us"),
    ("length of the prefill", "prefill_us", "prefill_difference_us"),
    ("first token", "prefill_us", "first_difference_us"),
    ("decode time", "decode_us", "decode_difference_us"),
)


def request_differences(pairs: Iterable[Pairing]) -> list[Differences]:
    """Over the requests, by whether they were streamed and whether they queued."""
    pairs = list(pairs)
    found = []
    for group, streamed, queued in (*GROUPS, *GROUPS_WHOLE):
        mine = [p for p in pairs if p.ledger.streamed == streamed and p.queued == queued]
        mine = [p for p in mine if p.ledger.first_us]  # one that ended in settled time has no place in it
        if mine:
            found += [
                Differences(
                    f"{quantity}, {group}",
                    "ms",
                    [getattr(p.engine, engine) / 1000 for p in mine],
                    [getattr(p, difference) / 1000 for p in mine],
                )
                for quantity, engine, difference in QUANTITIES
            ]
    return found


# -- the page --------------------------------------------------------------------------------------------


def report(run: Run) -> str:
    """The run's tables, in Markdown."""
    queued = sum(pair.queued for pair in pairings(run))
    return "\n\n".join(
        [
            f"{len(run.sent)} requests, {queued} of them queued; {len(run.iterations)} engine steps.",
            _total_table(totals(run)),
            _kind_table(kind_totals(run)),
            _difference_table("per interval of 0.5 s", interval_differences(run)),
            _difference_table("per request", request_differences(pairings(run))),
        ]
    )


def _total_table(found: Iterable[Total]) -> str:
    lines = [
        f"| {total.name} | {total.engine:.0f} | {total.ledger:.0f} | {100 * total.relative:+.1f} % |"
        for total in found
    ]
    head = ["| over the whole run | engine | ledger | ledger is off by |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *lines])


def _kind_table(found: Iterable[KindTotal]) -> str:
    lines = [
        f"| {kind.name} | {kind.requests} | {kind.computed} | {kind.charged_prompt:.0f} "
        f"| {kind.decoded} | {kind.charged_decode:.0f} |"
        for kind in found
    ]
    head = [
        "| by kind | n | prompt tokens: engine | intervals | tokens after the first: engine | intervals |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *lines])


def _difference_table(title: str, found: Iterable[Differences]) -> str:
    lines = [
        f"| {d.name} | {len(d.engine)} | {float(np.median(d.engine)):.0f} {d.unit} "
        f"| {d.median:+.0f} {d.unit} | {d.p90:.0f} {d.unit} |"
        for d in found
    ]
    head = [
        f"| {title} | n | engine, median | ledger - engine, median | nine in ten within |",
        "|---|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *lines])


RUNS: Final = (
    ("Without the engine's times (vLLM's default)", False),
    ("With `--enable-per-request-metrics`", True),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/engines.md")
    parser.add_argument("--seconds", type=float, default=PHASE_S, help="length of each of a run's two phases")
    chosen = parser.parse_args(arguments)
    parts = []
    for title, engine_times in RUNS:
        with tempfile.TemporaryDirectory() as directory:
            run = observe(Path(directory), chosen.seconds, engine_times=engine_times)
        parts.append(f"### {title}\n{report(run)}")
    text = "\n\n".join(parts)
    print(text)
    if chosen.write:
        write(text)


def write(text: str) -> None:
    """Put the tables between the page's marks. Raises ValueError where these are missing."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{PAGE} does not hold {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
