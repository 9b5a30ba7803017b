"""Reads what bills are made of from the store, a UTC day at a time: the sums by the hour of `rollups`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from accounting.billing.carbon import Intensity
from accounting.billing.charges import Charge, Shared, Use, Who
from accounting.billing.day import charges_of_day
from accounting.billing.tariff import DAY_US, HOUR_US
from accounting.billing.terms import Terms
from accounting.records import Boundary
from accounting.store.queries import StoreReader, TooManyRows
from accounting.store.rollups import Dimension, UsageReader, UsageRow

COUNTED: list[str | bool | None] = ["ok", "client_error", "engine_error", "aborted", "lost"]
"""Statuses of requests that reached an engine."""

_Row = TypeVar("_Row")


def project_of(project: object, tenant: object) -> str | None:
    """Who is charged: the project of the key, and without keys the tenant that the request named."""
    found = tenant if project is None else project
    return found if isinstance(found, str) else None


def day_us(day: str) -> int:
    """Start of a UTC day such as 2026-11-23, in UTC microseconds."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000


def day_name(t_us: int) -> str:
    return datetime.fromtimestamp(t_us // 1_000_000, UTC).strftime("%Y-%m-%d")


def month_us(period: str) -> tuple[int, int]:
    """Start and end of a UTC month such as 2026-11, in UTC microseconds. Raises ValueError."""
    start = datetime.strptime(period, "%Y-%m").replace(tzinfo=UTC)
    end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp()) * 1_000_000, int(end.timestamp()) * 1_000_000


class Source:
    """All raise StoreError."""

    def __init__(self, usage: UsageReader, books: StoreReader) -> None:
        self._usage, self._books = usage, books

    def uses(self, start_us: int, end_us: int) -> list[Use]:
        """By hour and who."""
        groups: list[Dimension] = ["project", "tenant", "user_id", "api_key", "model"]
        rows = by_parts(
            lambda t0_us, t1_us: self._usage.usage(t0_us, t1_us, "hour", groups, {"status": COUNTED}),
            start_us,
            end_us,
        )
        return [_use(row) for row in rows]

    def shared(self, start_us: int, end_us: int) -> list[Shared]:
        """By hour and boundary."""
        rows = by_parts(
            lambda t0_us, t1_us: self._books.books(t0_us, t1_us, None, HOUR_US).rows, start_us, end_us
        )
        sums: dict[tuple[int, Boundary], list[int]] = defaultdict(lambda: [0, 0, 0])
        for row in rows:
            entry = sums[row.bucket_us or 0, row.boundary]
            entry[0] += row.idle_uj
            entry[1] += row.unobserved_uj + row.unmeasured_uj
            entry[2] += row.covered_us + row.not_covered_us
        return [Shared(*key, *entry) for key, entry in sums.items()]

    def charges(
        self,
        start_us: int,
        end_us: int,
        terms: Terms,
        intensity: Intensity,
        done: Callable[[str], None] = lambda day: None,
    ) -> Iterator[Charge]:
        """The charges of the UTC days in [start_us, end_us). `done` is told each day that is through.

        Raises TariffError.
        """
        for t_us in range(start_us, end_us, DAY_US):
            day, next_us = day_name(t_us), t_us + DAY_US
            yield from charges_of_day(
                day, self.uses(t_us, next_us), self.shared(t_us, next_us), terms, intensity
            )
            done(day)


def by_parts(
    ask: Callable[[int, int], list[_Row]], start_us: int, end_us: int, width_us: int = HOUR_US
) -> list[_Row]:
    """All rows of whole buckets, halving the time where the store says that there are too many at once."""
    try:
        return ask(start_us, end_us)
    except TooManyRows:
        middle_us = start_us + (end_us - start_us) // (2 * width_us) * width_us
        if middle_us == start_us:
            raise
        return by_parts(ask, start_us, middle_us, width_us) + by_parts(ask, middle_us, end_us, width_us)


def _use(row: UsageRow) -> Use:
    group = row.group
    who = Who(
        project_of(group["project"], group["tenant"]),
        *(_text(group[n]) for n in ("user_id", "api_key", "model")),
    )
    used = row.usage
    return Use(row.bucket_us or 0, who, used.requests, used.energy_uj, used.host_uj)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
