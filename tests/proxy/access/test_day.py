"""What was spent is of a day and a month, whether or not a request tells that a new one has begun."""

from __future__ import annotations

from accounting.access.keys import Key, Keyring, Limits
from accounting.store.sums import DAY_US
from proxy.access.access import budgets
from proxy.access.expected import Expected
from proxy.access.gate import Gate

LAST_OF_MAY = 20_604
"""31 May 2026, in days since 1970."""


def test_a_new_day_begins_when_somebody_looks() -> None:
    now_us = [LAST_OF_MAY * DAY_US]
    gate = Gate(lambda: now_us[0], Expected(), admin=None, output_tokens=10)
    key = Key(id="key_1", name="a", hint="", project="p", created_us=0)
    gate.use(Keyring(keys=[key], limits={"project/p": Limits(uj_per_day=10_000_000)}))
    scope = gate.scopes["project/p"]
    scope.spend(LAST_OF_MAY, 4_000_000)
    gate.keep_time()
    assert (scope.day_uj, scope.month_uj) == (4_000_000, 4_000_000)
    now_us[0] += DAY_US - 1
    assert spent_j(gate) == 4.0
    now_us[0] += 1
    assert spent_j(gate) == 0.0
    assert (scope.day_uj, scope.month_uj) == (0, 0)


def spent_j(gate: Gate) -> float:
    """As /metrics tells it."""
    samples = [sample for metric in budgets(gate) for sample in metric.samples]
    (sample,) = [sample for sample in samples if sample.name == "joulegate_access_spent_joules"]
    assert sample.labels == {"scope": "project/p", "period": "day"}
    return float(sample.value)
