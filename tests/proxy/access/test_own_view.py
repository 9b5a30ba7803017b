"""What a key sees of points, flows, company, budgets and itself: its own project's, and nothing of others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest

from simulator.process import SimulatedEngine
from tests.proxy.access.keyed import asked, bearer, guarded, keyed, new_key
from tests.proxy.stack import Stack, error_of, until

LONG = 400
"""Tokens: long enough to have company."""


@dataclass
class Shared:
    """A proxy that two projects used at the same time, and what each of them sees."""

    stack: Stack
    keys: dict[str, tuple[str, str]]

    def sees(self, project: str | None, path: str, /, **parameters: object) -> Any:
        """None: the admin."""
        headers = self.stack.client.headers if project is None else bearer(self.keys[project][1])
        parameters = {name: value for name, value in parameters.items() if value is not None}
        url = f"{self.stack.proxy.url}/v1/{path}"
        answer = httpx.get(url, headers=headers, params=parameters)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def shared(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with keyed(tmp_path_factory.mktemp("shared"), guarded(simulated)) as stack:
        limits = {"joules_per_day": 1e6}
        keys = {
            "red": new_key(stack, name="of red", project="red", team="paint", any_tenant=True, limits=limits),
            "blue": new_key(stack, name="of blue", project="blue"),
        }
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda name: asked(stack, keys[name][1], max_tokens=LONG), ["red", "blue"] * 3)
            )
        assert {answer.status_code for answer in answers} == {200}
        named = {"authorization": f"Bearer {keys['red'][1]}", "x-joulegate-tenant": "blue"}
        assert stack.post({"model": "tiny", "prompt": "x"}, "/v1/completions", **named).status_code == 200
        stack.stored(7)
        until(lambda: all(s["reserved_joules"] == 0 for s in limits_list(stack)), "all is settled")
        yield Shared(stack, keys)


def limits_list(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.client.get("/v1/limits").json()["data"]
    return found


def agreed(shared: Shared, project: str) -> bool:
    """Whether a key sees what the admin sees of its project, and as many joules as flows as in points."""
    own = shared.sees(project, "energy/points")
    flows = shared.sees(project, "energy/flows")["data"]
    same: bool = own == shared.sees(None, "energy/points", project=project)
    return same and sum(flow["energy_uj"] for flow in flows) == sum(own["energy_uj"])


def test_points_and_flows_are_those_of_the_keys_project(shared: Shared) -> None:
    everything = shared.sees(None, "energy/points")
    assert len(everything["id"]) == 7
    for project, count in (("red", 4), ("blue", 3)):  # a request of red's named blue as its tenant
        own = shared.sees(project, "energy/points")
        records = shared.sees(project, "energy/requests")["data"]
        assert len(own["id"]) == count
        assert sorted(own["id"]) == sorted(record["id"] for record in records)
        assert {record["project"] for record in records} == {project}
        until(partial(agreed, shared, project), "no correction comes between the questions")
    tenants = {flow["tenant"] for flow in shared.sees("red", "energy/flows")["data"]}
    assert tenants == {"red", "blue"}


def test_a_key_cannot_ask_for_another_projects_points(shared: Shared) -> None:
    for path in ("energy/points?project=red", "energy/flows?project=blue&project=red"):
        answer = httpx.get(f"{shared.stack.proxy.url}/v1/{path}", headers=bearer(shared.keys["blue"][1]))
        assert (answer.status_code, error_of(answer)["code"]) == (403, "permission_denied")
    tenant = shared.sees("blue", "energy/points", tenant="red")
    assert tenant["id"] == []


def test_company_is_of_the_keys_project_and_others_requests_are_not_there(shared: Shared) -> None:
    records = shared.sees(None, "energy/requests")["data"]
    company = {record["id"]: shared.sees(None, f"energy/points/{record['id']}")["id"] for record in records}
    project = {record["id"]: record["project"] for record in records}
    mixed = [id for id, beside in company.items() if len({project[one] for one in beside}) == 2]
    assert mixed  # the two did share the engine
    for id in mixed:
        own = shared.sees(project[id], f"energy/points/{id}")["id"]
        assert own == [one for one in company[id] if project[one] == project[id]]
        other = "red" if project[id] == "blue" else "blue"
        refused = httpx.get(
            f"{shared.stack.proxy.url}/v1/energy/points/{id}", headers=bearer(shared.keys[other][1])
        )
        assert (refused.status_code, error_of(refused)["type"]) == (404, "not_found_error")


def test_a_key_sees_the_limits_on_itself_its_project_and_its_team(shared: Shared) -> None:
    everything = {one["scope"]: one for one in limits_list(shared.stack)}
    expected = {
        "red": {f"key/{shared.keys['red'][0]}", "project/red", "team/paint"},
        "blue": {f"key/{shared.keys['blue'][0]}", "project/blue"},
    }
    assert set(everything) == expected["red"] | expected["blue"]
    for name, scopes in expected.items():
        own = {one["scope"]: one for one in shared.sees(name, "limits")["data"]}
        assert own == {scope: everything[scope] for scope in scopes}
    assert everything[f"key/{shared.keys['red'][0]}"]["name"] == "of red"
    assert everything["project/red"]["name"] is None
    spent_uj = round(everything["project/red"]["spent_joules_day"] * 1e6)
    assert spent_uj == sum(shared.sees("red", "energy/points")["energy_uj"])


def test_a_key_cannot_change_its_limits(shared: Shared) -> None:
    url = f"{shared.stack.proxy.url}/v1/limits/project/red"
    answer = httpx.put(url, headers=bearer(shared.keys["red"][1]), json={"joules_per_day": 1e12})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "admin_key_required")


def test_whoever_asks_is_told_who_he_is(shared: Shared) -> None:
    nobody = {"object": "access", "keys": True, "admin": True}
    nobody |= {"key": None, "name": None, "project": None, "team": None}
    assert shared.sees(None, "access") == nobody
    assert shared.sees("red", "access") == {
        "object": "access",
        "keys": True,
        "admin": False,
        "key": shared.keys["red"][0],
        "name": "of red",
        "project": "red",
        "team": "paint",
    }


@pytest.mark.parametrize(
    "path", ["/page/%2e%2e/metrics", "/page/..%2f..%2fapp.py", "/page//etc/passwd", "/page/x"]
)
def test_behind_the_open_page_there_is_nothing_but_its_files(shared: Shared, path: str) -> None:
    answer = httpx.get(shared.stack.proxy.url + path)
    assert answer.status_code == 404
    assert error_of(answer)
