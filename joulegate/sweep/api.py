"""What joulegate says over REST of the time in which a level ran."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from joulegate.sweep import keys
from joulegate.sweep.plan import SweepError

SETTLE_S = 60.0
POLL_S = 0.25
MOST_ROWS = 9_000
"""Below what one answer of the books may have."""

Record = dict[str, Any]
Reading = tuple[float, float]
"""A time, and the joules that a meter had counted by then."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The books of some GPUs over about a second, in microjoules; `measured_uj` None: nothing was
    measured.
    """

    begin_s: float
    end_s: float
    measured_uj: int | None
    requests_uj: int
    idle_uj: int
    unobserved_uj: int
    unmeasured_uj: int
    balanced: bool


class Api:
    """A running joulegate. Raises SweepError where it cannot be asked."""

    def __init__(self, url: str) -> None:
        found = keys.to_see()
        headers = {"authorization": f"Bearer {found[1]}"} if found else {}
        self._url, self._variable = url, found[0] if found else None
        self._client = httpx.Client(base_url=url, timeout=60.0, headers=headers)

    def close(self) -> None:
        self._client.close()

    def _ask(self, path: str, **query: Any) -> httpx.Response:
        try:
            answer = self._client.get(path, params=query)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SweepError(f"joulegate at {self._url} cannot be asked: {error}") from error
        if answer.status_code in (401, 403):
            raise SweepError(keys.refused(answer.status_code, f"{self._url}{path}", self._variable))
        if not answer.is_success:
            raise SweepError(f"{self._url}{path} answers with status {answer.status_code}")
        return answer

    def _get(self, path: str, **query: Any) -> Any:
        try:
            return self._ask(path, **query).json()
        except ValueError as error:
            raise SweepError(f"{self._url}{path} answers with no JSON: is it a joulegate?") from error

    def check(self) -> None:
        """Raises SweepError where it does not show all that a sweep asks for."""
        self._get("/v1/energy/books", start_time=time.time() - 1)
        self.meters()

    def version(self) -> str:
        """Of the joulegate that serves, as its OpenAPI document says."""
        return str(self._get("/openapi.json")["info"]["version"])

    def records(self, since_s: float, until_s: float | None = None) -> list[Record]:
        """All that finished in this time."""
        query: dict[str, Any] = {"start_time": since_s, "limit": 1000}
        if until_s is not None:
            query["end_time"] = until_s
        records: list[Record] = []
        while True:
            page = self._get("/v1/energy/requests", **query)
            records += page["data"]
            if not page["has_more"]:
                return records
            query["after"] = page["next_page"]

    def settled(self, names: Collection[str], since_s: float) -> list[Record]:
        """All records of this time once those of these x-request-ids are final."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            records = self.records(since_s)
            final = {record["request_id"] for record in records if record["state"] == "final"}
            if final.issuperset(names):
                return records
            if time.monotonic() > deadline:
                missing = len(set(names) - final)
                raise SweepError(
                    f"{missing} of {len(names)} requests were not settled after {SETTLE_S:.0f} s"
                )
            time.sleep(POLL_S)

    def books(self, gpus: Collection[str], begin_s: float, end_s: float) -> list[Moment]:
        """The books of these GPUs together in buckets of one second, or more for a long time."""
        width = max(1, int(np.ceil((end_s - begin_s + 1) * max(1, len(gpus)) / MOST_ROWS)))
        query = {"start_time": begin_s, "end_time": end_s, "bucket_width_s": width}
        buckets: dict[float, list[dict[str, Any]]] = {}
        for gpu in sorted(gpus):
            for row in self._get("/v1/energy/books", gpu=gpu, **query)["data"]:
                buckets.setdefault(row["bucket_start_time"], []).append(row)
        return [_together(rows) for _, rows in sorted(buckets.items()) if len(rows) == len(gpus)]

    def charged_uj(self, gpus: Collection[str], begin_s: float) -> int:
        """What the books charged to requests in all intervals that begin at `begin_s` or later."""
        rows = [self._get("/v1/energy/books", gpu=gpu, start_time=begin_s)["data"] for gpu in sorted(gpus)]
        return sum(int(row["requests_uj"]) for found in rows for row in found)

    def meters(self) -> dict[str, Reading]:
        """By GPU: what its meter has counted since joulegate started, and when that was so."""
        return {
            row["gpu"]: (row["energy_at"], row["energy_joules"])
            for row in self._get("/v1/energy/devices")["data"]
            if row["boundary"] == "gpu" and row["energy_at"] is not None
        }


def _together(rows: list[dict[str, Any]]) -> Moment:
    measured = [row["measured_uj"] for row in rows]
    return Moment(
        begin_s=min(row["start_time"] for row in rows),
        end_s=max(row["end_time"] for row in rows),
        measured_uj=None if None in measured else sum(measured),
        requests_uj=sum(row["requests_uj"] for row in rows),
        idle_uj=sum(row["idle_uj"] for row in rows),
        unobserved_uj=sum(row["unobserved_uj"] for row in rows),
        unmeasured_uj=sum(row["unmeasured_uj"] for row in rows),
        balanced=all(row["balanced"] for row in rows),
    )
