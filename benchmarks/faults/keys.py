"""Keys with budgets for the clients of a fault, and whether what each has spent is what its records say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from accounting.store.engine import connect
from accounting.store.schema import StoredRequest
from benchmarks.faults.system import System, soon

ADMIN_SECRET = "the-admins-own-secret-of-a-benchmark"
SETTINGS: Mapping[str, Any] = {"access": {"enabled": True, "admin_key": ADMIN_SECRET}}

WIDE_J, TIGHT_J = 1e9, 20.0
"""Budgets for a month: one nobody reaches, one that some fifty requests use up."""


@dataclass
class Keys:
    secrets: Sequence[str]
    budgets_uj: Mapping[str, int]
    """By key."""


def _client(system: System) -> httpx.Client:
    headers = {"authorization": f"Bearer {ADMIN_SECRET}"}
    return httpx.Client(base_url=system.proxy.url, headers=headers, timeout=10.0)


def make(system: System) -> Keys:
    """Six keys of two projects with room, two of two others with hardly any."""
    secrets, budgets = [], {}
    with _client(system) as client:
        for number in range(8):
            project, budget_j = ("wide", WIDE_J) if number < 6 else ("tight", TIGHT_J)
            limits = {"joules_per_month": budget_j}
            body = {"name": f"{number}", "project": f"{project}-{number % 2}", "limits": limits}
            made = client.post("/v1/keys", json=body).raise_for_status().json()
            secrets.append(made["value"])
            budgets[made["id"]] = round(budget_j * 1e6)
    return Keys(secrets, budgets)


def wrong(system: System, keys: Keys) -> list[str]:
    """Once all is settled: where what was spent is not what the records say, or more than the budget.

    A budget may be overrun by what one request was expected too little: at most by what one costs.
    """
    found = ["nothing was compared"]

    def right() -> bool:
        nonlocal found
        try:
            found = _wrong(system, keys)
        except (SQLAlchemyError, httpx.TransportError) as error:
            found = [str(error)]
        return not found

    soon(right)
    return found


def _wrong(system: System, keys: Keys) -> list[str]:
    r = StoredRequest
    engine = connect(system.url)
    try:
        with engine.connect() as connection:
            query = select(r.api_key, r.project, func.sum(r.energy_uj), func.max(r.energy_uj))
            rows = connection.execute(query.group_by(r.api_key, r.project)).all()
    finally:
        engine.dispose()
    spent, most = dict.fromkeys((f"key/{key}" for key in keys.budgets_uj), 0), {}
    for key, project, sum_uj, max_uj in rows:
        most[f"key/{key}"] = int(max_uj or 0)
        for scope in (f"key/{key}", f"project/{project}"):
            spent[scope] = spent.get(scope, 0) + int(sum_uj or 0)
    with _client(system) as client:
        views = {view["scope"]: view for view in client.get("/v1/limits").raise_for_status().json()["data"]}
    found = [f"{scope} is unknown to the proxy" for scope in spent.keys() - views.keys()]
    for scope, view in views.items():
        told_uj = round(view["spent_joules_month"] * 1e6)
        if told_uj != spent.get(scope, 0) or view["reserved_joules"]:
            reserved = view["reserved_joules"]
            found.append(
                f"{scope}: spent {told_uj} uJ ({reserved} J reserved), records {spent.get(scope)} uJ"
            )
    for key, budget_uj in keys.budgets_uj.items():
        scope = f"key/{key}"
        if spent[scope] > budget_uj + most.get(scope, 0):
            found.append(f"{scope}: {spent[scope]} uJ of {budget_uj} uJ, a request {most[scope]} uJ at most")
    return found
