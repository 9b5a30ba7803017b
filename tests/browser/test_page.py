"""What the live page shows is what the REST tells, on desks and phones, empty, busy, with a GPU lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from simulator.gpu.board import Board
from simulator.process import SimulatedEngine
from tests.browser.chromium import DESKTOP, PHONE, Browser
from tests.proxy.stack import Stack, chat, metered, running, until

TENANTS = ("acme", "globex")
REQUESTS = 12
NVML_ERROR_GPU_IS_LOST = 15


@pytest.fixture(scope="module")
def busy(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A proxy that has served some requests, all of them settled and stored."""
    with running(tmp_path_factory.mktemp("busy"), metered(simulated)) as stack:
        for n in range(REQUESTS):
            answer = stack.post(
                chat(max_tokens=20, stream=bool(n % 2)), x_joulegate_tenant=TENANTS[n % len(TENANTS)]
            )
            assert answer.status_code == 200
        stack.stored(REQUESTS)
        stack.assert_balanced()
        yield stack


@pytest.fixture(scope="module")
def desk(busy: Stack) -> Iterator[Browser]:
    with Browser(DESKTOP) as browser:
        browser.open(busy.proxy.url)
        yield browser


def test_the_address_of_the_proxy_leads_to_the_page(desk: Browser, busy: Stack) -> None:
    assert desk.driver.current_url == f"{busy.proxy.url}/page/"


def test_the_books_of_the_page_are_those_of_the_rest_to_the_microjoule(desk: Browser, busy: Stack) -> None:
    def same() -> bool:
        rows = busy.client.get("/v1/energy/books").json()["data"]
        shown = desk.script(
            "return [...document.querySelectorAll('#books tbody tr')].map((row) =>"
            " [...row.querySelectorAll('td.n[title]')].map((cell) => cell.title))"
        )
        names = ("measured", "requests", "idle", "unobserved", "unmeasured")
        return bool(shown == [[f"{row[f'{name}_uj']:,} µJ" for name in names] for row in rows])

    assert desk.until(same)
    assert desk.text("#balance") == "books balance to the µJ"


def test_it_counts_the_requests_of_the_rest_and_sums_their_energy(desk: Browser, busy: Stack) -> None:
    records = busy.records()
    assert len(records) == REQUESTS
    sums = desk.until(lambda: dict(zip(desk.texts("#sums dt"), desk.texts("#sums dt + dd"), strict=True)))
    assert sums["Requests finished"] == str(REQUESTS)
    energy_j = sum(record["energy_joules"] for record in records)
    assert as_joules(sums["Their energy"]) == pytest.approx(energy_j, rel=0.005)
    per_token_j = energy_j / sum(record["completion_tokens"] for record in records)
    assert as_joules(sums["Per output token"]) == pytest.approx(per_token_j, rel=0.005)


def test_flows_are_told_in_words_with_every_tenant(desk: Browser) -> None:
    said = desk.until(lambda: desk.texts("#flows-text li"))
    assert any(line.startswith("GPU 0 to tiny: ") for line in said)
    for tenant in TENANTS:
        assert any(line.startswith(f"tiny to {tenant}: ") for line in said)


def test_every_request_is_a_point_that_can_be_seen(desk: Browser) -> None:
    drawn = "return document.getElementById('scatter').data.reduce((n, trace) => n + trace.x.length, 0)"
    assert desk.script(drawn) == REQUESTS
    assert desk.script("return document.querySelectorAll('#scatter canvas, #scatter .point').length") > 0


def test_with_the_keyboard_alone_a_request_can_be_opened_and_left(desk: Browser, busy: Stack) -> None:
    desk.script("document.getElementById('pause').click()")  # rows are drawn anew otherwise
    button = desk.one("#newest tbody button")
    desk.script("document.querySelector('#newest tbody button').focus()")
    uid = str(button.get_attribute("aria-label")).split()[1].rstrip(",")
    button.send_keys(Keys.ENTER)
    desk.until(lambda: desk.one("#detail").is_displayed())
    record = busy.client.get(f"/v1/energy/requests/{uid}").json()
    assert desk.text("#detail-title") == f"Request {record['request_id']}"
    facts = dict(zip(desk.texts("#detail-facts dt"), desk.texts("#detail-facts dd"), strict=True))
    assert as_joules(facts["Energy"].split(" ± ")[0]) == pytest.approx(record["energy_joules"], rel=0.005)
    assert facts["joulegate's id"] == uid
    assert record["started_at"] <= record["scheduled_at"] <= record["first_token_at"]
    assert as_seconds(facts["Queue"]) == pytest.approx(
        record["scheduled_at"] - record["started_at"], rel=0.01, abs=1e-3
    )
    bars = desk.script("return document.getElementById('detail-company').data.map((trace) => trace.name)")
    assert bars == ["queue", "prefill", "not told apart", "decode"]
    desk.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    desk.until(lambda: not desk.one("#detail").is_displayed())
    desk.script("document.getElementById('pause').click()")


def test_on_a_phone_nothing_sticks_out(busy: Stack) -> None:
    with Browser(PHONE, dark=True) as browser:
        browser.open(busy.proxy.url)
        assert browser.script("return document.documentElement.scrollWidth") <= PHONE[0]
        ground = browser.script("return getComputedStyle(document.documentElement).backgroundColor")
        assert ground == "rgb(20, 21, 23)"  # dark, as was asked for


def test_what_happens_is_shown_without_loading_the_page_again(busy: Stack) -> None:
    with Browser() as browser:
        browser.open(busy.proxy.url)
        before = int(browser.script("return document.body.dataset.drawn"))
        assert busy.post(chat()).status_code == 200
        browser.until(lambda: int(browser.script("return document.body.dataset.drawn")) > before)


def test_without_requests_it_says_how_to_send_one(simulated: SimulatedEngine, tmp_path: Path) -> None:
    with running(tmp_path, metered(simulated)) as stack, Browser() as browser:
        browser.open(stack.proxy.url)
        assert browser.one("#empty").is_displayed()
        assert browser.text("#hint") == f"export OPENAI_BASE_URL={stack.proxy.url}/v1"


def test_a_lost_gpu_is_in_plain_sight(simulated: SimulatedEngine, busy: Stack) -> None:
    board = Board.attach(simulated.board)
    with Browser() as browser:
        browser.open(busy.proxy.url)
        assert browser.texts(".card .fault") == []
        assert browser.text("#balance") == "books balance to the µJ"
        try:
            board.fault(0, "*", code=NVML_ERROR_GPU_IS_LOST)
            until(lambda: busy.client.get("/v1/energy/devices").json()["data"][0]["fault"], "the GPU is lost")
            said = browser.until(lambda: browser.texts(".card .fault"))
        finally:
            board.heal()
            board.close()
        assert said[0].startswith("Not measured: GPU_IS_LOST")
        assert browser.texts(".card .power")[0].startswith("– of")
        assert browser.text("#balance") == "1 device is not measured"


def as_joules(text: str) -> float:
    """`4.5 kJ` in joules."""
    number, unit = text.split()
    return float(number) * {"kJ": 1e3, "J": 1.0, "mJ": 1e-3, "µJ": 1e-6}[unit]


def as_seconds(text: str) -> float:
    """`4.5 ms` in seconds."""
    number, unit = text.split()
    return float(number) * {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[unit]
