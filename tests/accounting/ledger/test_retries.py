"""A request that goes to another backend keeps what its failed try cost."""

from __future__ import annotations

import pytest

from accounting.events import RequestMoved
from accounting.ledger import Ledger
from tests.accounting.ledger.story import (
    Gpu,
    Power,
    Story,
    assert_all_charged,
    energy_uj,
    us,
    written_and_read,
)


def two_replicas() -> Story:
    """Each on a GPU of its own: one works from second 8 to 9, then the other from 9 to 12."""
    first = Gpu("GPU-a", Power((-10, 100), (8.0, 500), (9.0, 100)))
    second = Gpu("GPU-b", Power((-10, 100), (9.0, 700), (12.0, 100)))
    return Story([first, second], {"main": ["GPU-a"], "other": ["GPU-b"]})


def moved(story: Story, handle: int, second: float, backend: str) -> None:
    story.plan(second, RequestMoved(t_us=us(second), handle=handle, backend=backend))


def test_a_retried_request_is_charged_on_both_gpus() -> None:
    story = two_replicas()
    handle = story.request("r", 8.0, 9.1, 12.0, tokens=100)
    moved(story, handle, 9.0, "other")
    story.run(20.0)
    record = story.records["r"]
    by_gpu = {share.gpu: share.prefill_uj + share.decode_uj for share in record.shares}
    assert by_gpu["GPU-a"] == pytest.approx(500e6, rel=0.02)
    assert by_gpu["GPU-b"] == pytest.approx(2100e6, rel=0.02)
    assert energy_uj(record) == sum(by_gpu.values())
    assert (record.backend, record.started_us) == ("other", us(8.0))
    assert_all_charged(story)


def test_two_failed_tries_are_both_kept() -> None:
    story = two_replicas()
    handle = story.request("r", 8.0, 9.6, 12.0, tokens=100)
    moved(story, handle, 8.5, "other")
    moved(story, handle, 9.5, "main")
    story.run(20.0)
    assert {share.gpu for share in story.records["r"].shares} == {"GPU-a", "GPU-b"}
    assert_all_charged(story)


def test_a_request_that_failed_everywhere_is_charged_for_its_tries() -> None:
    story = two_replicas()
    handle = story.request("r", 8.0, None, 9.5, status="engine_error", usage=False)
    moved(story, handle, 9.0, "other")
    story.run(20.0)
    assert energy_uj(story.records["r"]) == pytest.approx((500 + 350) * 1e6, rel=0.02)
    assert_all_charged(story)


def test_a_restart_between_tries_forgets_nothing() -> None:
    story = two_replicas()
    handle = story.request("r", 8.0, 9.1, 12.0, tokens=100)
    moved(story, handle, 9.0, "other")
    story.run(9.5)
    story.ledger = Ledger(written_and_read(story.ledger.state))
    story.run(20.0)
    assert energy_uj(story.records["r"]) == pytest.approx(2600e6, rel=0.02)
    assert_all_charged(story)


def test_a_move_to_nowhere_or_after_the_first_token_is_nonsense_and_let_go() -> None:
    story = two_replicas()
    handle = story.request("r", 8.0, 8.1, 9.0, tokens=30)
    moved(story, handle, 8.05, "nobody")
    moved(story, handle, 8.5, "other")
    story.run(20.0)
    assert [share.gpu for share in story.records["r"].shares] == ["GPU-a"]
    assert_all_charged(story)
