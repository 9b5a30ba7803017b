"""An engine and the proxy in front of it: what every case and scenario runs against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import httpx

from tests.parity.compare import differences
from tests.parity.exchange import NO_TLS, Answer, Case, send

SETTLE_DEADLINE_S: Final = 20.0  # an interval, the counter's next step, the store: about 2 s
POLL_S: Final = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """`direct_url` is the engine's address, `proxied_url` the proxy's, both without a slash at the end."""

    direct_url: str
    proxied_url: str
    model: str
    serves_responses: bool = True
    serves_embeddings: bool = False

    def play(self, case: Case) -> tuple[Answer, list[str]]:
        """The engine's own answer, and in what the proxied one differs."""
        if case.repeated:
            send(self.direct_url, case)
        direct = send(self.direct_url, case)
        return direct, differences(direct, send(self.proxied_url, case), case)

    def record(self, request_id: str) -> dict[str, Any]:
        """The one final record of a request, waited for. Fails where there is none, or more than one."""

        def final() -> dict[str, Any] | None:
            answer = self._get(f"{self.proxied_url}/v1/energy/requests/{request_id}")
            found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
            return found if found.get("state") == "final" else None

        record = until(final, f"a final record of {request_id}")

        def stored() -> list[dict[str, Any]] | None:
            return [entry for entry in self.records() if entry["request_id"] == request_id] or None

        assert until(stored, f"a stored record of {request_id}") == [record]
        return record

    def records(self) -> list[dict[str, Any]]:
        """All records that the proxy has stored, page by page."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self._get(f"{self.proxied_url}/v1/energy/requests?limit=1000{cursor}").json()
            found += page["data"]
            if not page["has_more"]:
                return found
            cursor = f"&after={page['next_page']}"

    def books(self) -> dict[str, Any]:
        """The books of all GPUs since the proxy's first start, summed."""
        total: dict[str, Any] = self._get(f"{self.proxied_url}/v1/energy/books").json()["total"]
        return total

    def gauge(self, name: str) -> float:
        """A gauge or counter of the engine's /metrics, such as `vllm:num_requests_running`."""
        for line in self._get(f"{self.direct_url}/metrics").text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"the engine has no gauge {name}")

    def until_engine_has(self, *, running: int | None = None, waiting: int | None = None) -> None:
        """Wait until that many requests run or wait in the engine."""
        for name, wanted in (("vllm:num_requests_running", running), ("vllm:num_requests_waiting", waiting)):
            if wanted is not None:
                until(partial(self._is, name, wanted), f"{name} == {wanted}")

    def _get(self, url: str) -> httpx.Response:
        return httpx.get(url, timeout=10, verify=NO_TLS)

    def _is(self, name: str, wanted: int) -> bool | None:
        return True if self.gauge(name) == wanted else None


def until(condition: Callable[[], T | None], what: str, deadline_s: float = SETTLE_DEADLINE_S) -> T:
    """What `condition` gives once it is not None; fails at the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        result = condition()
        if result is not None:
            return result
        assert time.monotonic() < end, f"there was not {what} after {deadline_s:.0f} s"
        time.sleep(POLL_S)
