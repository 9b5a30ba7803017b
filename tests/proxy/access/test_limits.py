"""Buckets, expectations, scopes and the gate: arithmetic, with a clock that the test moves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.access.keys import Limits
from accounting.events import Media, Usage
from proxy.access.bucket import Bucket
from proxy.access.expected import Expected, Size
from proxy.access.holder import ADMIN, presented_key
from proxy.access.rate_headers import duration
from proxy.ask import Ask, understand
from proxy.errors import Forbidden, TooManyRequests, Unauthorized
from tests.proxy.access.gates import (
    ADMIN_SECRET,
    CHAT,
    MILLION,
    MONDAY_US,
    Clock,
    MakeGate,
    ask,
    known,
    settled,
)

# buckets


def test_a_bucket_gives_a_minutes_worth_at_once_and_then_as_it_fills() -> None:
    bucket = Bucket(60, 0)
    bucket.take(60)
    assert bucket.wait_s(1, 0) == pytest.approx(1.0)
    assert bucket.wait_s(1, MILLION) == 0
    assert bucket.wait_s(2, MILLION) == pytest.approx(1.0)
    assert bucket.full_s(MILLION) == pytest.approx(59.0)


def test_more_than_a_bucket_holds_waits_for_a_full_one_and_not_for_ever() -> None:
    bucket = Bucket(60, 0)
    assert bucket.wait_s(1_000, 0) == 0
    bucket.take(1)
    assert bucket.wait_s(1_000, 0) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40_000_000)), max_size=60))
def test_no_minute_gives_more_than_twice_the_limit_and_a_bucket_is_never_more_than_full(
    asks: list[tuple[int, int]],
) -> None:
    bucket, now_us, taken = Bucket(60, 0), 0, []
    for amount, pause_us in asks:
        now_us += pause_us
        if bucket.wait_s(amount, now_us) == 0:
            bucket.take(min(amount, 60))
            taken.append((now_us, min(amount, 60)))
        assert bucket.level(now_us) <= 60
    for begin_us, _ in taken:
        assert sum(n for t_us, n in taken if begin_us <= t_us < begin_us + 60 * MILLION) <= 120


# expectations


def test_what_is_expected_is_above_what_nine_in_ten_cost() -> None:
    chance, expected = random.Random(1), Expected()
    size, over = Size(CHAT, "tiny", 400, 50, 1), 0
    for n in range(2_000):
        uj = round(chance.lognormvariate(0, 0.5) * MILLION)
        known = expected.uj(size)
        over += known is not None and n >= 100 and uj > known
        expected.learn(size, settled(uj, completion_tokens=50))
    assert over / 1_900 < 0.1


def test_a_request_is_expected_to_use_all_the_tokens_it_may() -> None:
    expected = Expected()
    for _ in range(100):
        expected.learn(Size(CHAT, "m", 100, None, 1), settled(10 * MILLION, completion_tokens=11))
    few, many = (expected.uj(Size(CHAT, "m", 100, tokens, 1)) for tokens in (10, 1_000))
    assert few is not None
    assert many == pytest.approx(100 * few, rel=0.01)
    assert expected.uj(Size(CHAT, "m", 100, 10, 4)) == pytest.approx(4 * few, rel=0.01)
    assert expected.uj(Size(CHAT, "other", 100, 10, 1)) is None


def test_a_model_without_tokens_is_expected_by_the_request_and_one_never_measured_at_nothing() -> None:
    expected = Expected()
    image, dark = Size("/v1/images/generations", "m", 100, None, 1), Size(CHAT, "dark", 100, 10, 1)
    for _ in range(100):
        expected.learn(image, settled(5 * MILLION, completion_tokens=None))
        expected.learn(dark, settled(None))
    assert expected.uj(image) == pytest.approx(5 * MILLION, rel=0.01)
    assert expected.uj(dark) == 0


def test_images_are_expected_by_their_pixels_steps_and_number() -> None:
    expected = Expected()

    def size(count: int, steps: int | None) -> Size:
        media = Media(kind="image", count=count, width=64, height=64, steps=steps)
        return Size("/v1/images/generations", "m", 100, None, 1, media)

    for _ in range(100):
        expected.learn(size(1, 10), settled(MILLION, completion_tokens=None))
    assert expected.uj(size(4, 50)) == pytest.approx(20 * MILLION, rel=0.01)
    assert expected.uj(size(1, None)) is None  # how many steps the server takes by itself is not known


def test_what_failed_teaches_nothing() -> None:
    expected = Expected()
    expected.learn(Size(CHAT, "m", 1, 1, 1), settled(5, status="aborted"))
    assert expected.learnt == {}


# who


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"x-api-key", b"abc")], b"abc"),
        ([(b"x-api-key", b"other"), (b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"Basic eDphYmM=")], b"abc"),
        ([(b"authorization", b"Basic ***")], None),
        ([(b"authorization", b"Digest abc")], None),
        ([], None),
    ],
)
def test_where_a_key_is_looked_for(headers: list[tuple[bytes, bytes]], key: bytes | None) -> None:
    assert presented_key(headers) == key


def test_the_admin_is_known_and_others_are_not(gate_of: MakeGate) -> None:
    gate = gate_of()
    assert gate.know([(b"authorization", b"Bearer " + ADMIN_SECRET)]) is ADMIN
    for headers in ([], [(b"authorization", b"Bearer x")], [(b"authorization", b"Bearer ")]):
        with pytest.raises(Unauthorized):
            gate.know(headers)
    assert dict(gate.rejected) == {"missing_api_key": 1, "invalid_api_key": 2}
    with pytest.raises(Forbidden):
        gate.admit(ADMIN, ask(), 10)


def test_keys_and_secrets_end_at_their_time(gate_of: MakeGate, clock: Clock) -> None:
    gate = gate_of(expires_us=MONDAY_US + 10)
    assert known(gate).key is not None
    clock.us += 10
    with pytest.raises(Unauthorized):
        known(gate)


@pytest.mark.parametrize(
    ("body", "good"),
    [
        (b'{"model":"llama-8b"}', True),
        (b'{"model":"llama-8b","model":"gpt"}', False),
        (b'{"model":"xllama-8b"}', False),
        (b'{"prompt":"x"}', False),
        (b"{", False),
    ],
)
def test_a_key_for_some_models_is_for_no_others(gate_of: MakeGate, body: bytes, good: bool) -> None:
    gate = gate_of(models=["llama-*", "qwen?"])
    if good:
        gate.admit(known(gate), ask(body), 10)
        return
    with pytest.raises(Forbidden):
        gate.admit(known(gate), ask(body), 10)


def test_a_form_that_names_two_models_is_not_for_a_key_for_one(gate_of: MakeGate) -> None:
    gate = gate_of(models=["whisper"])
    part = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\n%s\r\n'
    headers = [(b"content-type", b"multipart/form-data; boundary=b")]

    def form(*models: bytes) -> Ask:
        body = b"".join(part % model for model in models) + b"--b--\r\n"
        return understand("POST", "/v1/audio/transcriptions", b"", headers, body)

    gate.admit(known(gate), form(b"whisper"), 10)
    for models in ((b"other",), (b"whisper", b"other"), (b"other", b"whisper"), ()):
        with pytest.raises(Forbidden):
            gate.admit(known(gate), form(*models), 10)


@pytest.mark.parametrize("name", ['NAME="model"', 'name = "model"', "name=model", "name*=utf-8''model"])
def test_a_field_is_the_model_however_its_name_is_written(name: str, gate_of: MakeGate) -> None:
    gate = gate_of(models=["whisper"])
    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    first = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    other = b"--b\r\nContent-Disposition: form-data; %b\r\n\r\nother\r\n--b--\r\n" % name.encode()
    with pytest.raises(Forbidden):
        gate.admit(
            known(gate), understand("POST", "/v1/audio/transcriptions", b"", headers, first + other), 10
        )


def test_who_is_charged_is_the_keys_project_unless_it_may_name_others(gate_of: MakeGate) -> None:
    for any_tenant, tenant in ((False, "p"), (True, "else")):
        request = ask()
        request.tenant = "else"
        known(gate_of(any_tenant=any_tenant, user_id="u")).mark(request)
        found = (request.tenant, request.project, request.api_key, request.user_id)
        assert found == (tenant, "p", "key_1", "u")


# how much


def test_requests_at_one_time_and_in_a_minute_are_limited(gate_of: MakeGate, clock: Clock) -> None:
    gate = gate_of(Limits(parallel_requests=2, requests_per_minute=3))
    holder = known(gate)
    grants = [gate.admit(holder, ask(), 10) for _ in range(2)]
    with pytest.raises(TooManyRequests) as refused:
        gate.admit(holder, ask(), 10)
    assert refused.value.reason == "parallel"
    for grant in grants:
        grant.end(None, None)
        grant.end(None, None)  # counts once
    gate.admit(holder, ask(method="GET", path="/v1/files", body=b""), 0)  # every route counts
    with pytest.raises(TooManyRequests) as refused:
        gate.admit(holder, ask(), 10)
    assert (refused.value.reason, refused.value.headers()["retry-after"]) == ("requests", "20")
    assert refused.value.headers()["x-ratelimit-remaining-requests"] == "0"
    clock.us += 20 * MILLION
    gate.admit(holder, ask(), 10)


def test_tokens_are_reserved_as_they_may_be_used_and_settled_as_they_were(gate_of: MakeGate) -> None:
    gate = gate_of(Limits(tokens_per_minute=1_000))
    holder = known(gate)
    bucket = gate.scopes["project/p"].tokens
    assert bucket is not None
    grant = gate.admit(holder, ask(b'{"model":"m","max_tokens":400,"n":2}'), 400)
    assert bucket.level(MONDAY_US) == 1_000 - 100 - 800
    with pytest.raises(TooManyRequests) as refused:
        gate.admit(holder, ask(), 800)
    assert (refused.value.reason, refused.value.kind) == ("tokens", "tokens")
    grant.end(settled(1, completion_tokens=20), Usage(prompt_tokens=30, completion_tokens=20))
    assert bucket.level(MONDAY_US) == 1_000 - 50


def test_a_websocket_is_not_for_keys_whose_use_has_to_be_counted(gate_of: MakeGate) -> None:
    upgrade = ask(method="GET", path="/v1/realtime", body=b"")
    free, limited = gate_of(Limits(parallel_requests=1)), gate_of(Limits(uj_per_day=1))
    free.admit(known(free), upgrade, 0, tunnel=True)
    with pytest.raises(Forbidden):
        limited.admit(known(limited), upgrade, 0, tunnel=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1204, b"120ms"), (1.5, b"1.5s"), (59.9, b"59.9s"), (360, b"6m0s"), (3_725, b"1h2m5s")],
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text
