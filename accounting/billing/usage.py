"""Usage by bucket and group, with cost and carbon: what OpenAI's usage API tells, and joules.

Cost and carbon are of what the requests themselves drew. Shares of idle energy and the like are in charges
(`source`), which are made by the day.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from accounting.billing.carbon import Intensity
from accounting.billing.charges import Who
from accounting.billing.day import EMBODIED_UNITS, plus
from accounting.billing.source import COUNTED, by_parts, project_of
from accounting.billing.tariff import DAY_US, HOUR_US, Rate
from accounting.billing.terms import ONE, Terms
from accounting.billing.units import nearest
from accounting.store.queries import StoreReader
from accounting.store.rollups import BUCKET_US, Bucket, Dimension, Usage, UsageReader, UsageRow

Kind = Literal["completions", "embeddings", "images", "videos"]
Group = Literal["project_id", "user_id", "api_key_id", "model", "size", "source"]
Key = tuple[str | None, ...]

EMBEDDING_ROUTES = {"/v1/embeddings", "/pooling", "/classify"}
EMBEDDING_ROUTES |= {f"{version}/{task}" for version in ("", "/v1", "/v2") for task in ("score", "rerank")}
SOURCES = {
    "/v1/images/generations": "image.generation",
    "/v1/images/edits": "image.edit",
    "/v1/images/variations": "image.variation",
}


def kind_of(route: str) -> Kind:
    """Which of the usage routes tells of requests to `route`. What is none of the others is a completion."""
    if route in EMBEDDING_ROUTES:
        return "embeddings"
    if route.startswith("/v1/images"):
        return "images"
    return "videos" if route.startswith("/v1/videos") else "completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Times in UTC microseconds, at whole buckets. The filters name what is wanted; None: all."""

    kind: Kind | None
    start_us: int
    end_us: int
    bucket: Bucket
    group_by: Sequence[Group] = ()
    projects: Collection[str] | None = None
    users: Collection[str] | None = None
    api_keys: Collection[str] | None = None
    models: Collection[str] | None = None
    sizes: Collection[str] | None = None
    sources: Collection[str] | None = None


@dataclass(slots=True)
class Sums:
    """Sums over requests, each over those of which it is known; None where over none.

    `with_energy`, `with_usage`: requests whose energy, or tokens, are known. Cost and carbon are in their
    units, None where a part is not known.
    """

    requests: int = 0
    with_energy: int = 0
    with_usage: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    energy_uj: int | None = None
    prefill_uj: int | None = None
    decode_uj: int | None = None
    host_uj: int | None = None
    unmeasured_us: int = 0
    images: int = 0
    videos: int = 0
    video_us: int = 0
    cost: int | None = 0
    location: int | None = 0
    market: int | None = 0
    embodied: int | None = 0

    def take(self, usage: Usage) -> None:
        for name in _SUMMED:
            value = getattr(usage, name)
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + value)
        self.with_usage += usage.with_prompt

    def add(self, other: Sums) -> None:
        """Take in the sums of other requests."""
        for name in _SUMMED:
            value = getattr(other, name)
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + value)
        for name in _PRICED:
            setattr(self, name, plus(getattr(self, name), getattr(other, name)))


_PRICED = ("cost", "location", "market", "embodied", "with_usage")
_SUMMED = [field.name for field in fields(Sums) if field.name not in _PRICED]


class UsageReport:
    """All raise StoreError and TariffError."""

    def __init__(self, usage: UsageReader, books: StoreReader, terms: Terms, intensity: Intensity) -> None:
        self._usage, self._books = usage, books
        self._terms, self._intensity = terms, intensity

    def ask(self, question: Question) -> dict[int, dict[Key, Sums]]:
        """By start of the bucket, then by group in the order of `group_by`; both sorted."""
        width_us = BUCKET_US[question.bucket]
        making = self._making(question)
        found: dict[int, dict[Key, Sums]] = defaultdict(lambda: defaultdict(Sums))
        for t_us, row in self._rows(question):
            group = row.group
            project = project_of(group["project"], group["tenant"])
            told = {
                "project_id": project,
                "user_id": group.get("user_id"),
                "api_key_id": group.get("api_key"),
                "model": group.get("model"),
                "size": group.get("media_size"),
                "source": SOURCES.get(str(group["route"])),
            }
            if not _wanted(question, str(group["route"]), told):
                continue
            entry = found[t_us // width_us * width_us][tuple(_text(told[name]) for name in question.group_by)]
            entry.take(row.usage)
            self._price(entry, row, t_us, Who(project, model=_text(told["model"])), making)
        return {
            t_us: {key: found[t_us][key] for key in sorted(found[t_us], key=_order)} for t_us in sorted(found)
        }

    def _rows(self, question: Question) -> Iterator[tuple[int, UsageRow]]:
        """Rows as fine as prices and factors are, by project and model too, and when each begins."""
        filters: dict[Dimension, Sequence[str | bool | None]] = {"status": COUNTED}
        given: list[tuple[Dimension, Collection[str] | None]] = [
            ("user_id", question.users),
            ("api_key", question.api_keys),
            ("model", question.models),
            ("media_size", question.sizes),
        ]
        filters |= {name: list(values) for name, values in given if values is not None}
        groups: list[Dimension] = ["route", "project", "tenant", "model"]
        named: dict[Group, Dimension] = {"user_id": "user_id", "api_key_id": "api_key", "size": "media_size"}
        groups += [named[name] for name in question.group_by if name in named]
        bucket = question.bucket
        if bucket == "day" and self._intensity.varies:
            bucket = "hour"
        elif bucket == "day" and any(tariff.windows for tariff in self._terms.tariffs.tariffs):
            # A few stretches a day are far fewer rows than its hours.
            for t0_us, t1_us in self._stretches(question.start_us, question.end_us):
                for row in self._usage.usage(t0_us, t1_us, None, groups, filters):
                    yield t0_us, row
            return
        for row in by_parts(
            lambda t0_us, t1_us: self._usage.usage(t0_us, t1_us, bucket, groups, filters),
            question.start_us,
            question.end_us,
            BUCKET_US[bucket],
        ):
            yield row.bucket_us or 0, row

    def _stretches(self, start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
        """The hours of a time, put together within a day as long as no rate changes."""
        begun_us = start_us
        for t_us in range(start_us + HOUR_US, end_us, HOUR_US):
            rates = self._terms.tariffs.rates
            if t_us % DAY_US == 0 or rates(t_us) != rates(t_us - HOUR_US):
                yield begun_us, t_us
                begun_us = t_us
        yield begun_us, end_us

    def _price(self, entry: Sums, row: UsageRow, t_us: int, who: Who, making: Mapping[int, int]) -> None:
        terms, used = self._terms, row.usage
        if not used.with_energy:
            return
        gpu_uj, host_uj = used.energy_uj or 0, used.host_uj or 0
        pue = ONE if terms.pue is None else terms.pue
        rate = self._rate(who, t_us)
        billed_uj = gpu_uj + (host_uj if terms.host else 0)
        entry.cost = plus(entry.cost, None if rate is None else billed_uj * rate.price)
        location, market = (
            None if factor is None else nearest((gpu_uj + host_uj) * factor * pue, ONE)
            for factor in self._intensity.at(t_us)
        )
        entry.location, entry.market = plus(entry.location, location), plus(entry.market, market)
        per_joule = making.get(t_us // DAY_US)
        entry.embodied = plus(entry.embodied, None if per_joule is None else gpu_uj * per_joule // 10**6)

    def _rate(self, who: Who, t_us: int) -> Rate | None:
        tariff = (
            None if self._terms.currency is None else self._terms.tariffs.tariff_of(who.project, who.model)
        )
        if tariff is None:
            return None
        return self._terms.tariffs.rates(t_us // HOUR_US * HOUR_US)[tariff.name]

    def _making(self, question: Question) -> dict[int, int]:
        """By day, carbon units of making the GPUs for each joule that requests drew that day."""
        if self._terms.embodied is None:
            return {}
        start_us, end_us = question.start_us // DAY_US * DAY_US, -(-question.end_us // DAY_US) * DAY_US
        device_us: dict[int, int] = defaultdict(int)
        for book in self._books.books(start_us, end_us, None, DAY_US).rows:
            if book.boundary == "gpu":
                device_us[(book.bucket_us or 0) // DAY_US] += book.covered_us + book.not_covered_us
        days = self._usage.usage(start_us, end_us, "day")
        return {
            day: device_us[day] * self._terms.embodied * EMBODIED_UNITS * 10**6 // row.usage.energy_uj
            for row in days
            if row.usage.energy_uj and (day := (row.bucket_us or 0) // DAY_US) in device_us
        }


def merged(found: Mapping[int, Mapping[Key, Sums]]) -> dict[int, dict[Key, Sums]]:
    """All buckets as one, which begins with the first."""
    whole: dict[Key, Sums] = defaultdict(Sums)
    for by_key in found.values():
        for key, sums in by_key.items():
            whole[key].add(sums)
    return {min(found): {key: whole[key] for key in sorted(whole, key=_order)}} if found else {}


def _wanted(question: Question, route: str, told: Mapping[str, object]) -> bool:
    if question.kind is not None and kind_of(route) != question.kind:
        return False
    if question.projects is not None and told["project_id"] not in question.projects:
        return False
    return question.sources is None or told["source"] in question.sources


def _order(key: Key) -> list[tuple[bool, str]]:
    return [(part is not None, part or "") for part in key]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
