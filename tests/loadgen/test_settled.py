"""Final joules are waited for, page by page, and only those asked for are told."""

from __future__ import annotations

from email.message import Message
from typing import Any
from urllib.error import HTTPError

from loadgen.settled import joules


def record(name: str, state: str = "final", value: float | None = 1.0) -> dict[str, Any]:
    return {"request_id": name, "state": state, "energy_joules": value}


def test_records_are_taken_from_all_pages_once_all_are_final() -> None:
    asked: list[str] = []

    def get(url: str) -> dict[str, Any]:
        asked.append(url)
        if "after=2" in url:
            state = "final" if len(asked) > 2 else "provisional"
            return {"data": [record("b", state, None)], "has_more": False, "next_page": None}
        return {"data": [record("a"), record("other")], "has_more": True, "next_page": "2"}

    assert joules("http://x", ["a", "b"], 5.0, get) == {"a": 1.0, "b": None}
    assert len(asked) == 4
    assert "start_time=5.0" in asked[0]


def test_a_server_that_is_no_joulegate_knows_no_joules() -> None:
    def get(url: str) -> dict[str, Any]:
        raise HTTPError(url, 404, "not found", Message(), None)

    assert joules("http://x", ["a"], 0.0, get) is None
