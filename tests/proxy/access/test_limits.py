"""Buckets, expectations, scopes and the gate: arithmetic, with a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.access.keys import Key, Keyring, Limits, Secret, digest
from accounting.events import Media, Usage
from accounting.records import RequestRecord
from accounting.store.sums import DAY_US
from proxy.access.bucket import Bucket
from proxy.access.expected import Expected, Size
from proxy.access.gate import ADMIN, Gate, Holder, presented_key
from proxy.access.grant import Grant
from proxy.access.rate_headers import duration
from proxy.ask import Ask, understand
from proxy.errors import Forbidden, TooManyRequests, Unauthorized
from tests.accounting.store.examples import record

MONDAY_US = 20_780 * DAY_US
SECRET, ADMIN_SECRET = b"sk-jg-of-a-test", b"the admin's secret"
CHAT = "/v1/chat/completions"
MILLION = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.us = MONDAY_US

    def now_us(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakeGate = Callable[..., Gate]


@pytest.fixture
def gate_of(clock: Clock) -> MakeGate:
    def make(limits: Limits | None = None, first_uj: int | None = None, **fields: object) -> Gate:
        made = Gate(
            clock.now_us, Expected(), admin=digest(ADMIN_SECRET), output_tokens=100, first_uj=first_uj
        )
        key = Key(**{"id": "key_1", "name": "k", "hint": "", "created_us": 0, "project": "p", **fields})  # type: ignore[arg-type]
        secret = Secret(hash=digest(SECRET), key=key.id, created_us=0)
        made.use(Keyring(version=1, keys=[key], secrets=[secret], limits={"project/p": limits or Limits()}))
        return made

    return make


def known(gate: Gate) -> Holder:
    return gate.know([(b"authorization", b"Bearer " + SECRET)])


def ask(body: bytes = b'{"model":"tiny","max_tokens":10}', path: str = CHAT, method: str = "POST") -> Ask:
    return understand(method, path, b"", [(b"content-type", b"application/json")], body)


def settled(uj: int | None, **fields: object) -> RequestRecord:
    parts = {"energy_uj": uj, "prefill_uj": 0, "decode_uj": uj} if uj is not None else {}
    nothing = dict.fromkeys(("energy_uj", "prefill_uj", "decode_uj"))
    return record(1, **{"completion_tokens": 11, "uncertainty_uj": 0, **nothing, **parts, **fields})


def teach(gate: Gate, uj: int, times: int = 60) -> int:
    """Requests like `ask()` cost this; returns what one is then expected to cost."""
    size = Size(CHAT, "tiny", 32, 10, 1)
    for _ in range(times):
        gate.expected.learn(size, settled(uj))
    expected = gate.expected.uj(size)
    assert expected is not None
    return expected


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


def test_hundreds_at_once_against_a_budget_for_ten_spend_no_more_than_it(gate_of: MakeGate) -> None:
    chance = random.Random(7)
    gate = gate_of()
    each_uj = teach(gate, MILLION)
    budget_uj = 10 * each_uj
    gate.use(
        Keyring(
            version=2,
            keys=gate.keyring.keys,
            secrets=gate.keyring.secrets,
            limits={"project/p": Limits(uj_per_day=budget_uj)},
        )
    )
    scope, holder = gate.scopes["project/p"], known(gate)
    grants: list[Grant] = []
    refusals, refused = 0, set()
    most_over_uj = 0.0
    for _ in range(500):  # they come, end and are settled in any order
        try:
            grants.append(gate.admit(holder, ask(), 32))
        except TooManyRequests as refusal:
            refused.add(refusal.reason)
            refusals += 1
        if grants and chance.random() < 0.3:
            grant, cost = grants.pop(chance.randrange(len(grants))), settled(round(MILLION * chance.random()))
            if chance.random() < 0.5:
                grant.end(cost, None)
                grant.settle(cost, 20_780)
            else:
                grant.settle(cost, 20_780)
                grant.end(cost, None)
        most_over_uj = max(most_over_uj, scope.day_uj + scope.reserved_uj - budget_uj)
    for grant in grants:
        grant.settle(settled(MILLION), 20_780)
        grant.end(settled(MILLION), None)
    assert refusals > 300
    assert refused == {"joules_day"}
    assert most_over_uj <= 0
    assert scope.day_uj <= budget_uj
    assert scope.day_uj > budget_uj - 2 * each_uj  # and nearly all of it could be used
    assert (scope.reserved_uj, scope.parallel) == (0, 0)


def test_a_model_nobody_knows_takes_all_that_is_left_and_goes_alone(gate_of: MakeGate) -> None:
    gate = gate_of(Limits(uj_per_month=100 * MILLION))
    holder = known(gate)
    first = gate.admit(holder, ask(), 32)
    assert first.held_uj == 100 * MILLION
    with pytest.raises(TooManyRequests) as refused:
        gate.admit(holder, ask(), 32)
    assert (refused.value.code, refused.value.again) == ("rate_limit_exceeded", True)
    first.end(settled(3 * MILLION, uncertainty_uj=MILLION), None)
    assert gate.scopes["project/p"].reserved_uj == 4 * MILLION


def test_a_model_nobody_knows_leaves_room_in_a_large_budget(gate_of: MakeGate) -> None:
    """It reserves no more than on the dearest model: others need not wait for the first to be settled."""
    gate = gate_of(Limits(uj_per_month=10**9 * MILLION))
    grants = [gate.admit(known(gate), ask(), 32) for _ in range(20)]
    assert {grant.held_uj for grant in grants} == {275 * MILLION * (32 // 4 + 10)}


def test_what_goes_on_at_its_backend_keeps_what_it_has_reserved(gate_of: MakeGate) -> None:
    gate = gate_of(Limits(uj_per_day=100 * MILLION), first_uj=10 * MILLION)
    holder, scope = known(gate), gate.scopes["project/p"]
    job, left = (gate.admit(holder, ask(), 32) for _ in range(2))
    job.end(None, None)  # a video: the answer only says that it was begun
    left.end(settled(MILLION), None, goes_on=True)  # the client left, the server paints on
    assert (scope.reserved_uj, scope.parallel) == (20 * MILLION, 0)
    for grant in (job, left):
        grant.settle(settled(4 * MILLION), 20_780)
    assert (scope.reserved_uj, scope.day_uj) == (0, 8 * MILLION)


def test_what_may_be_expected_of_an_unknown_model_can_be_said(gate_of: MakeGate) -> None:
    gate = gate_of(Limits(uj_per_day=200), first_uj=40)
    holder = known(gate)
    assert [gate.admit(holder, ask(), 32).held_uj for _ in range(2)] == [40, 40]
    with pytest.raises(TooManyRequests):
        gate.admit(holder, ask(), 32)


def test_errors_of_requests_at_one_time_may_double_what_was_expected_and_the_budget_holds(
    gate_of: MakeGate,
) -> None:
    gate = gate_of(Limits(uj_per_day=10 * MILLION), first_uj=MILLION)
    holder, scope = known(gate), gate.scopes["project/p"]
    while True:
        grants: list[Grant] = []
        try:
            while True:
                grants.append(gate.admit(holder, ask(), 32))
        except TooManyRequests:
            pass
        if not grants:
            break
        for grant in grants:
            grant.settle(settled(2 * MILLION, status="aborted"), 20_780)
    assert 9 * MILLION <= scope.day_uj <= 11 * MILLION  # one error: that of the last, which goes alone


def test_a_budget_that_is_gone_says_when_there_is_a_new_one(gate_of: MakeGate, clock: Clock) -> None:
    gate = gate_of(Limits(uj_per_day=2 * MILLION))
    holder = known(gate)
    grant = gate.admit(holder, ask(), 32)
    grant.end(settled(2 * MILLION), None)
    grant.settle(settled(2 * MILLION), 20_780)
    clock.us += 3_600 * MILLION
    with pytest.raises(TooManyRequests) as refused:
        gate.admit(holder, ask(), 32)
    headers = refused.value.headers()
    assert (refused.value.code, headers["retry-after"]) == ("insufficient_quota", str(23 * 3_600))
    assert (headers["x-should-retry"], headers["x-ratelimit-reset-joules"]) == ("false", "23h0m0s")
    clock.us = MONDAY_US + DAY_US
    gate.admit(holder, ask(), 32)
    assert gate.scopes["project/p"].day_uj == 0
    assert gate.scopes["project/p"].month_uj == 2 * MILLION


def test_a_new_month_begins_with_nothing_and_late_corrections_go_to_their_day(
    gate_of: MakeGate, clock: Clock
) -> None:
    gate = gate_of(Limits(uj_per_month=10))
    scope, holder = gate.scopes["project/p"], known(gate)
    scope.spend(20_780, 7)
    clock.us = (20_780 + 8) * DAY_US  # November has 30 days, and this was the 23rd
    gate.admit(holder, ask(method="GET", path="/v1/x", body=b""), 0)
    assert (scope.month_uj, scope.day_uj) == (0, 0)
    scope.spend(20_780, 5)
    assert scope.month_uj == 0


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
