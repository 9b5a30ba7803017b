"""The live page where keys are asked for: who gets in; a tenant sees its own, the admin everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from simulator.process import SimulatedEngine
from tests.browser.chromium import DESKTOP, PHONE, Browser
from tests.browser.test_page import as_joules
from tests.proxy.access.keyed import ADMIN_SECRET, asked, bearer, guarded, keyed, new_key
from tests.proxy.stack import Stack, until

REQUESTS = {"search": 3, "chat": 5}


@dataclass
class Guarded:
    """A proxy that asks for keys, and has served some requests of two projects."""

    stack: Stack
    secrets: dict[str, str]

    def rest(self, secret: str, path: str) -> Any:
        """What the REST answers to this key."""
        answer = httpx.get(f"{self.stack.proxy.url}/v1/{path}", headers=bearer(secret))
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def proxy(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with keyed(tmp_path_factory.mktemp("login"), guarded(simulated)) as stack:
        keys = {
            "search": new_key(stack, name="search box", project="search", team="ranking"),
            "chat": new_key(stack, name="chat room", project="chat"),
        }
        secrets = {project: secret for project, (_, secret) in keys.items()}
        for project, count in REQUESTS.items():
            for _ in range(count):
                assert asked(stack, secrets[project], max_tokens=20).status_code == 200
        stack.stored(sum(REQUESTS.values()))
        settled = lambda: all(one["reserved_joules"] == 0 for one in limits_of_all(stack))  # noqa: E731
        until(settled, "all is settled")
        for scope, limits in (
            ("project/search", {"joules_per_day": 5000}),
            (f"key/{keys['chat'][0]}", {"joules_per_day": 1e6, "joules_per_month": 2e7}),
        ):
            stack.client.put(f"/v1/limits/{scope}", json=limits).raise_for_status()
        yield Guarded(stack, secrets)


def limits_of_all(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.client.get("/v1/limits").json()["data"]
    return found


@pytest.fixture(params=["search", "chat"])
def project(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def admin(proxy: Guarded) -> Iterator[Browser]:
    with Browser(DESKTOP, keys=True) as browser:
        browser.driver.get(proxy.stack.proxy.url)
        browser.log_in(ADMIN_SECRET)
        browser.drawn()
        yield browser


def shown_budgets(browser: Browser) -> list[list[Any]]:
    """Rows of the table: whose, then joules spent, allowed, reserved and left, unrounded."""
    found: list[list[Any]] = browser.script(
        "return [...document.querySelectorAll('#budgets tbody tr')].map((row) => [row.cells[0].title + ' ' +"
        " row.querySelector('div').textContent,"
        " ...[...row.querySelectorAll('td.n')].map((cell) => cell.title ? parseFloat(cell.title) : null)])"
    )
    return found


def expected_budgets(limits: list[dict[str, Any]]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for one in limits:
        spent = {"today": one["spent_joules_day"], "this month": one["spent_joules_month"]}
        allowed = {"today": one["limits"]["joules_per_day"], "this month": one["limits"]["joules_per_month"]}
        periods = [name for name, joules in allowed.items() if joules is not None] or ["this month"]
        for name in periods:
            budget = allowed[name]
            left = None if budget is None else budget - (spent[name] + one["reserved_joules"])
            rows.append([f"{one['scope']} {name}", spent[name], budget, one["reserved_joules"], left])
    return rows


def sums_of(browser: Browser) -> dict[str, str]:
    return dict(
        zip(browser.texts("#sums dt"), browser.texts("#sums dt + dd"), strict=True),
    )


def test_without_a_key_nothing_is_shown_and_a_wrong_one_is_told_so(proxy: Guarded) -> None:
    with Browser(DESKTOP, keys=True) as browser:
        browser.driver.get(proxy.stack.proxy.url)
        browser.until(lambda: browser.one("#login").is_displayed())
        assert browser.text("#login-why").startswith("Figures are shown to those with a key.")
        assert not browser.one("#content").is_displayed()
        for wrong in ("sk-jg-wrong", "kéy…"):
            browser.log_in(wrong)
            said = browser.until(
                lambda: "refused" in browser.text("#login-why") and browser.text("#login-why")
            )
            reason = (
                "Incorrect API key provided." if wrong.isascii() else "it has characters that no key has."
            )
            assert said == f"That key was refused: {reason}"
            assert browser.script("return document.body.dataset.drawn") is None
        browser.log_in(proxy.secrets["chat"])
        browser.drawn()
        assert browser.text("#who") == "project chat"


def test_a_tenant_sees_its_own_as_the_rest_tells_it(proxy: Guarded, project: str) -> None:
    secret = proxy.secrets[project]
    records = proxy.rest(secret, "energy/requests")["data"]
    assert len(records) == REQUESTS[project]
    with Browser(PHONE, dark=True, keys=True) as browser:
        browser.driver.get(proxy.stack.proxy.url)
        browser.log_in(secret)
        browser.drawn()
        assert browser.text("#who") == f"project {project}"
        sums = sums_of(browser)
        assert set(sums) == {"Requests finished", "Their energy", "Per output token", "Tokens generated"}
        assert sums["Requests finished"] == str(len(records))
        energy_j = sum(record["energy_joules"] for record in records)
        tokens = sum(record["completion_tokens"] for record in records)
        assert as_joules(sums["Their energy"]) == pytest.approx(energy_j, rel=0.005)
        assert as_joules(sums["Per output token"]) == pytest.approx(energy_j / tokens, rel=0.005)
        shown = browser.texts("#newest tbody button")
        assert len(shown) == len(records)
        flows = proxy.rest(secret, "energy/flows")["data"]
        assert {flow["tenant"] for flow in flows} == {project}
        said = [line for line in browser.texts("#flows-text li") if line.startswith("tiny to ")]
        assert [line.split(": ")[0] for line in said] == [f"tiny to {project}"]
        assert as_joules(said[0].split(": ")[1]) == pytest.approx(flows[0]["energy_joules"], rel=0.005)
        budgets = expected_budgets(proxy.rest(secret, "limits")["data"])
        assert sorted(shown_budgets(browser)) == sorted(budgets)
        for other in set(REQUESTS) - {project}:
            assert other not in browser.script("return document.body.innerText")
        assert browser.script("return document.documentElement.scrollWidth") <= PHONE[0]


def test_a_tenant_sees_no_figure_of_a_whole_gpu(proxy: Guarded) -> None:
    with Browser(DESKTOP, keys=True) as browser:
        browser.driver.get(proxy.stack.proxy.url)
        browser.log_in(proxy.secrets["search"])
        browser.drawn()
        assert [title for title in browser.texts("h2") if "book" in title] != []  # there, but not to be seen
        for hidden in ("#devices", "#books"):
            assert not browser.one(hidden).is_displayed()
            assert browser.texts(f"{hidden} article, {hidden} tbody tr") == []
        asked_for = browser.script("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert [url for url in asked_for if "devices" in url or "books" in url] == []


def test_a_tenant_opens_its_request_and_sees_company_of_its_project(proxy: Guarded) -> None:
    with Browser(DESKTOP, keys=True) as browser:
        browser.driver.get(proxy.stack.proxy.url)
        browser.log_in(proxy.secrets["search"])
        browser.drawn()
        browser.script("document.getElementById('pause').click()")
        browser.script("document.querySelector('#newest tbody button').focus()")
        browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
        browser.until(lambda: browser.one("#detail").is_displayed())
        browser.until(lambda: browser.script("return document.getElementById('detail-company').data") or None)
        assert (
            browser.text("#detail-about") == "No other request of your project was in flight on its backend."
        )
        assert not browser.one("#detail-power").is_displayed()
        facts = dict(zip(browser.texts("#detail-facts dt"), browser.texts("#detail-facts dd"), strict=True))
        uid = facts["joulegate's id"]
        record = proxy.rest(proxy.secrets["search"], f"energy/requests/{uid}")
        assert as_joules(facts["Energy"].split(" ± ")[0]) == pytest.approx(record["energy_joules"], rel=0.005)


def test_the_admin_sees_everything(proxy: Guarded, admin: Browser) -> None:
    assert admin.text("#who") == "admin"
    assert sums_of(admin)["Requests finished"] == str(sum(REQUESTS.values()))
    said = admin.texts("#flows-text li")
    for project in REQUESTS:
        assert any(line.startswith(f"tiny to {project}: ") for line in said)
    assert admin.one("#devices .card").is_displayed()
    assert admin.texts("#books tbody tr") != []


def test_budgets_are_those_of_the_rest(proxy: Guarded, admin: Browser) -> None:
    limits = proxy.rest(ADMIN_SECRET, "limits")["data"]
    assert {one["scope"].split("/")[0] for one in limits} == {"key", "project", "team"}
    expected = expected_budgets(limits)
    admin.until(lambda: sorted(shown_budgets(admin)) == sorted(expected))
    shown = shown_budgets(admin)
    parts = [row[1] / row[2] for row in shown if row[2] is not None]
    assert parts == sorted(parts, reverse=True)
    assert all(row[2] is None for row in shown[len(parts) :])  # those without a budget come last
    assert sum(row[1] for row in shown if row[0].startswith("project/")) > 0


def test_to_log_out_leaves_nothing_behind(proxy: Guarded) -> None:
    with Browser(DESKTOP, keys=True) as browser:
        browser.driver.get(proxy.stack.proxy.url)
        browser.log_in(ADMIN_SECRET)
        browser.drawn()
        browser.one("#leave").click()
        browser.until(lambda: browser.one("#login").is_displayed())
        assert browser.script("return sessionStorage.length") == 0
        assert browser.texts("#newest tbody tr, #books tbody tr, #budgets tbody tr, #devices article") == []


def test_a_key_that_is_revoked_sees_nothing_more(proxy: Guarded) -> None:
    id, secret = new_key(proxy.stack, name="for a while", project="search")
    with Browser(DESKTOP, keys=True) as browser:
        browser.driver.get(proxy.stack.proxy.url)
        browser.log_in(secret)
        browser.drawn()
        proxy.stack.client.delete(f"/v1/keys/{id}").raise_for_status()
        browser.until(lambda: browser.one("#login").is_displayed())
        assert browser.text("#login-why") == "That key was refused: Incorrect API key provided."
        assert not browser.one("#content").is_displayed()
