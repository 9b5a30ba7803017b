"""Images and videos: whose energy it is, on servers that work in turn or on several at a time."""

from __future__ import annotations

from typing import Any

import pytest

from accounting.events import (
    BackendDeclared,
    EngineCounters,
    JobStarted,
    Media,
    MediaTold,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
)
from accounting.ledger import Ledger
from accounting.ledger.jobs import JobWork
from accounting.ledger.jobs_pace import TURN
from accounting.ledger.jobs_state import LATEST
from accounting.records import RequestRecord
from tests.accounting.ledger.story import (
    IDLE,
    Story,
    assert_all_charged,
    energy_uj,
    joules,
    one_gpu,
    still_open,
    us,
    written_and_read,
)

BUSY = 600
IMAGE = Media(kind="image", width=1024, height=1024, steps=20)
VIDEO = Media(kind="video", width=832, height=480, steps=50, frames=81, fps=16.0)


def ask(
    story: Story, name: str, start: float, end: float | None, media: Media = IMAGE, **finished: Any
) -> int:
    """Plan a request for images or a video; `finished`: what its end says beside its time."""
    handle = story.request(name, start, None, None, streamed=False, backend=finished.pop("backend", "main"))
    t_us, n, event = story._plan[-1]
    assert isinstance(event, RequestStarted)
    story._plan[-1] = (t_us, n, _with_media(event, media))
    if end is not None:
        finish(story, handle, end, **finished)
    return handle


def _with_media(event: RequestStarted, media: Media) -> RequestStarted:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return RequestStarted(**{**fields, "media": media})


def finish(story: Story, handle: int, end: float, *, said: float | None = None, **fields: Any) -> None:
    """It ended at `end`; `said` is when that was told, where that was later."""
    fields = {"status": "ok", **fields}
    story.plan(end if said is None else said, RequestFinished(t_us=us(end), handle=handle, **fields))


def warm(story: Story, begin: float, count: int = 1, seconds: float = 2.0, media: Media = IMAGE) -> None:
    """Images one after the other, so that it is known how long one takes."""
    for k in range(count):
        ask(story, f"warm-{k}", begin + k * seconds, begin + (k + 1) * seconds, media)


def test_four_at_once_on_a_server_that_works_in_turn_get_each_its_own_turn() -> None:
    # All four come at 6.0; ends tell that they took 0.5, 1.0, 1.5 and 1.0 s. Their times in flight sum to
    # 9.0 s of 4.0 s of work.
    story = one_gpu((6.0, BUSY), (10.0, IDLE))
    for name, end in (("a", 6.5), ("b", 7.5), ("c", 9.0), ("d", 10.0)):
        ask(story, name, 6.0, end)
    story.run(14.0)
    got = {name: record.energy_uj for name, record in story.records.items()}
    seconds = {"a": 0.5, "b": 1.0, "c": 1.5, "d": 1.0}
    assert got == {name: joules(BUSY * s) for name, s in seconds.items()}
    assert sum(energy_uj(record) for record in story.records.values()) == joules(BUSY * 4.0)
    assert_all_charged(story)


def test_a_queue_that_is_longer_than_what_is_remembered_of_ends_gets_each_its_own() -> None:
    count = LATEST + 40
    story = one_gpu((6.0, BUSY), (6.0 + 0.8 * count, IDLE))
    for k in range(count):
        ask(story, f"r{k}", 6.0, 6.0 + 0.8 * (k + 1))
    story.run(12.0 + 0.8 * count)
    for k in range(count):
        assert energy_uj(story.records[f"r{k}"]) == pytest.approx(BUSY * 0.8 * 1e6, rel=0.03)
    assert_all_charged(story)


def test_energy_of_an_interval_in_which_one_ended_and_the_next_began_goes_by_time() -> None:
    story = one_gpu((6.0, BUSY), (10.0, IDLE))
    for name, end in (("a", 7.2), ("b", 8.4), ("c", 10.0)):
        ask(story, name, 6.0, end)
    story.run(14.0)
    for name, seconds in (("a", 1.2), ("b", 1.2), ("c", 1.6)):
        assert energy_uj(story.records[name]) == pytest.approx(BUSY * seconds * 1e6, rel=0.03)
    assert_all_charged(story)


def test_jobs_side_by_side_share_in_proportion_to_their_work() -> None:
    double = Media(kind="image", width=1024, height=1024, steps=20, count=2)
    story = one_gpu((6.0, BUSY), (9.0, IDLE))
    story.say(BackendDeclared(t_us=us(0), backend="main", gpus=["GPU-a"], at_once=4))
    ask(story, "one", 6.0, 9.0)
    ask(story, "two", 6.0, 9.0, double)
    story.run(13.0)
    one, two = (energy_uj(story.records[name]) for name in ("one", "two"))
    assert one + two == joules(BUSY * 3.0)
    assert two / one == pytest.approx(2.0, rel=0.1)
    assert_all_charged(story)


def test_a_server_that_works_on_several_at_a_time_is_found_out_by_their_ends() -> None:
    story = one_gpu((6.0, BUSY), (26.0, IDLE))
    warm(story, 6.0, 2)
    for batch in range(4):
        for k in range(4):
            ask(story, f"{batch}-{k}", 10.0 + 4 * batch, 14.0 + 4 * batch + k * 0.01)
    story.run(30.0)
    last = [energy_uj(story.records[f"3-{k}"]) for k in range(4)]
    assert last == [pytest.approx(BUSY * 1.0 * 1e6, rel=0.02)] * 4
    assert_all_charged(story)


def test_a_client_that_leaves_pays_until_the_server_is_done() -> None:
    story = one_gpu((6.0, BUSY), (12.0, IDLE))
    warm(story, 6.0, 2)
    ask(story, "left", 10.0, 10.5, status="aborted", goes_on=True)
    story.run(16.0)
    left = story.records["left"]
    assert (left.status, left.finished_us) == ("aborted", us(12.0))
    assert left.energy_uj == joules(BUSY * 2.0)
    assert_all_charged(story)


def test_the_server_s_own_counts_say_when_what_was_left_is_done() -> None:
    # It should have taken until 12.0, and takes until 13.5.
    story = one_gpu((6.0, BUSY), (13.5, IDLE))
    warm(story, 6.0, 2)
    ask(story, "left", 10.0, 10.5, status="aborted", goes_on=True)
    for k in range(30):
        t = 10.0 + 0.2 * k
        running = 1 if t < 13.5 else 0
        story.plan(t, EngineCounters(t_us=us(t), backend="main", running=running, waiting=0))
    story.run(20.0)
    left = story.records["left"]
    assert us(13.3) <= left.finished_us <= us(13.7)
    assert energy_uj(left) == pytest.approx(BUSY * 3.5 * 1e6, rel=0.05)
    assert_all_charged(story)


def test_one_that_ends_behind_what_was_left_says_when_that_was_done() -> None:
    # Both are quicker than usual: 0.9 s each, where 2 s were known.
    story = one_gpu((6.0, BUSY), (11.8, IDLE))
    warm(story, 6.0, 2)
    ask(story, "left", 10.0, 10.5, status="aborted", goes_on=True)
    ask(story, "next", 10.2, 11.8)
    story.run(16.0)
    left, after = story.records["left"], story.records["next"]
    assert left.finished_us == us(10.9)
    assert energy_uj(left) == pytest.approx(BUSY * 0.9 * 1e6, rel=0.03)
    assert energy_uj(left) + energy_uj(after) == joules(BUSY * 1.8)
    assert_all_charged(story)


def test_one_taken_back_before_its_turn_pays_nothing() -> None:
    story = one_gpu((6.0, BUSY), (9.0, IDLE))
    ask(story, "a", 6.0, 9.0)
    ask(story, "waits", 6.2, 7.5, status="aborted")
    story.run(13.0)
    assert story.records["waits"].energy_uj == 0
    assert story.records["a"].energy_uj == joules(BUSY * 3.0)
    assert_all_charged(story)


def test_one_that_the_server_refused_pays_nothing() -> None:
    story = one_gpu((6.0, BUSY), (9.0, IDLE))
    ask(story, "a", 6.0, 9.0)
    ask(story, "refused", 6.2, 7.5, status="client_error")
    story.run(13.0)
    assert story.records["refused"].energy_uj == 0
    assert story.records["a"].energy_uj == joules(BUSY * 3.0)


def test_an_end_that_is_told_late_gives_the_time_behind_it_to_the_next() -> None:
    story = one_gpu((6.0, BUSY), (12.0, IDLE))
    video = ask(story, "video", 6.0, None, VIDEO)
    finish(story, video, 9.0, said=11.0)
    ask(story, "image", 6.5, 12.0)
    story.run(16.0)
    assert story.records["video"].energy_uj == joules(BUSY * 3.0)
    assert story.records["image"].energy_uj == joules(BUSY * 3.0)
    assert_all_charged(story)


def test_a_job_goes_on_over_a_restart_and_what_was_no_job_is_lost_but_paid() -> None:
    story = one_gpu((6.0, BUSY), (18.0, IDLE))
    warm(story, 6.0, 2)
    ask(story, "image", 10.0, None)
    video = ask(story, "video", 10.5, None, VIDEO)
    story.plan(10.6, JobStarted(t_us=us(10.6), handle=video, job="video_1"))
    ask(story, "waits", 10.7, None)
    story.run(11.0)
    story.ledger = Ledger(written_and_read(story.ledger.state))
    story.say(ServiceStarted(t_us=us(11.0), source=0, version="test"))
    assert {told.job for told in story.ledger.jobs().values()} == {"video_1"}
    finish(story, video, 18.0)
    story.run(24.0)
    record = story.records["video"]
    assert (record.status, record.job, record.media) == ("ok", "video_1", VIDEO)
    assert record.energy_uj == joules(BUSY * 6.0)
    assert (story.records["waits"].status, story.records["waits"].energy_uj) == ("lost", 0)
    image = story.records["image"]
    assert (image.status, image.energy_uj) == ("lost", joules(BUSY * 2.0))
    assert_all_charged(story)


def test_a_ledger_that_begins_with_its_written_state_goes_on_to_the_same_microjoules() -> None:
    def told(cut: float | None) -> dict[str, int | None]:
        story = one_gpu((6.0, BUSY), (21.0, IDLE))
        warm(story, 6.0, 2)
        for k, media in enumerate((IMAGE, VIDEO, IMAGE)):
            ask(story, f"r{k}", 10.0 + k, 14.3 + 3.1 * k, media)
        story.request("chat", 11.0, 11.2, 18.0, tokens=300)
        if cut is not None:
            story.run(cut)
            story.ledger = Ledger(written_and_read(story.ledger.state))
        story.run(26.0)
        assert_all_charged(story)
        return {name: record.energy_uj for name, record in story.records.items()}

    assert told(13.6) == told(None)
    assert told(17.25) == told(None)


def test_a_language_model_and_a_diffusion_model_on_one_gpu_each_get_their_own() -> None:
    # Chats draw 200 W above idle, images 400 W; for 120 s each comes alone at times, and both together.
    steps: list[tuple[float, int]] = []
    story = one_gpu(llm=["GPU-a"], dit=["GPU-a"])
    t, truth = 6.0, {"chat": 0.0, "image": 0.0}
    for k in range(60):
        chat, image = k % 3 != 1, k % 3 != 0
        watts = IDLE + 200 * chat + 400 * image
        steps += [(t, watts)]
        share = watts / max(200 * chat + 400 * image, 1) * 2.0
        truth["chat"] += share * 200 * chat
        truth["image"] += share * 400 * image
        if chat:
            story.request(f"chat-{k}", t, t + 0.02, t + 2.0, tokens=200, backend="llm")
        if image:
            ask(story, f"image-{k}", t, t + 2.0, backend="dit")
        t += 2.0
    story.gpus[0].power = type(story.gpus[0].power)((-10, IDLE), *steps, (t, IDLE))
    story.run(t + 70.0)
    assert_all_charged(story)
    tail = set(range(30, 60))
    got = {"chat": 0.0, "image": 0.0}
    for name, record in story.records.items():
        kind, number = name.split("-")
        if int(number) in tail:
            got[kind] += energy_uj(record) / 1e6
    both = sum(got.values())
    assert both == pytest.approx(sum(truth.values()) / 2, rel=0.01)
    assert got["chat"] / both == pytest.approx(truth["chat"] / sum(truth.values()), abs=0.08)


def test_what_is_told_of_a_job_later_is_in_its_record() -> None:
    story = one_gpu((6.0, BUSY), (9.0, IDLE))
    handle = ask(story, "video", 6.0, 9.0, Media(kind="video"))
    story.plan(6.2, MediaTold(t_us=us(6.2), handle=handle, media=VIDEO))
    story.run(13.0)
    assert story.records["video"].media == VIDEO


def test_a_figure_is_there_while_a_job_runs() -> None:
    story = one_gpu((6.0, BUSY), (30.0, IDLE))
    warm(story, 6.0, 2)
    handle = ask(story, "video", 10.0, None, VIDEO)
    story.run(20.0)
    record = story.ledger.provisional(handle)
    assert record is not None
    assert record.energy_uj == pytest.approx(BUSY * 10.0 * 1e6, rel=0.1)
    assert still_open(story.ledger) == {handle}
    assert story.ledger.open_requests - story.ledger.lasting_jobs == 1


def test_where_nothing_is_measured_a_job_is_recorded_all_the_same() -> None:
    story = Story([], {"main": []})
    video = ask(story, "video", 6.0, None, VIDEO)
    story.plan(6.1, JobStarted(t_us=us(6.1), handle=video, job="v"))
    finish(story, video, 9.0)
    ask(story, "left", 6.0, 7.0, status="aborted", goes_on=True)
    story.run(10.0)
    assert {name: (r.status, r.energy_uj) for name, r in story.records.items()} == {
        "video": ("ok", None),
        "left": ("aborted", None),
    }


def test_what_both_did_before_prices_were_known_is_split_anew() -> None:
    # The priors take an image of unknown size for one of 1024x1024 pixels: several times what this one draws.
    # They decide for the first half minute, until the prices are known; corrections mend it.
    unknown = Media(kind="image", steps=20)
    steps: list[tuple[float, int]] = []
    story = one_gpu(llm=["GPU-a"], dit=["GPU-a"])
    t, truth = 6.0, {"chat": 0.0, "image": 0.0}
    for k in range(60):
        chat, image = k % 3 != 1, k % 3 != 0
        steps += [(t, 500 * chat + 150 * image)]
        if k < 15:
            truth["chat"] += 2.0 * 500 * chat
            truth["image"] += 2.0 * 150 * image
        if chat:
            story.request(f"chat-{k}", t, t + 0.02, t + 2.0, tokens=200, backend="llm")
        if image:
            ask(story, f"image-{k}", t, t + 2.0, unknown, backend="dit")
        t += 2.0
    story.gpus[0].power = type(story.gpus[0].power)((-10, IDLE), *steps, (t, IDLE))
    story.run(t + 70.0)
    assert_all_charged(story)
    early = {"chat": 0.0, "image": 0.0}
    at_first = dict(early)
    for output in story.outputs:
        if isinstance(output, RequestRecord) and int(output.request_id.split("-")[1]) < 15:
            at_first[output.request_id.split("-")[0]] += energy_uj(output) / 1e6
    for name, record in story.records.items():
        kind, number = name.split("-")
        if int(number) < 15:
            early[kind] += energy_uj(record) / 1e6
    assert early["image"] == pytest.approx(truth["image"], rel=0.1)
    assert abs(early["image"] - truth["image"]) < 0.5 * abs(at_first["image"] - truth["image"])


def test_a_job_gets_on_more_slowly_beside_a_language_model() -> None:
    # 2 s alone, then 2 s beside a chat: little more than a third of its work is done there.
    story = one_gpu((6.0, BUSY), (24.0, IDLE), llm=["GPU-a"], dit=["GPU-a"])
    shares: dict[str, float] = {}
    ask(story, "image", 20.0, 24.0, backend="dit")
    story.request("chat", 22.0, 22.02, 24.0, tokens=200, backend="llm")
    story.run(24.4)
    group = next(g for g in story.ledger._groups.all if len(g.backends) > 1)
    column = group.names.index("dit|jobs")
    for kept in group.history.between(us(20.0), us(24.0)):
        work = kept.works[column]
        half = "alone" if kept.t1_us <= us(22.0) else "beside"
        if isinstance(work, JobWork) and len(work.part):
            shares[half] = shares.get(half, 0.0) + float(work.part.sum())
    assert shares["beside"] / shares["alone"] == pytest.approx(TURN, rel=0.02)
