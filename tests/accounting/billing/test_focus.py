"""FOCUS rows of any charges add up to their invoices, and keep the rules."""

from __future__ import annotations

import json
from collections import defaultdict
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.billing.charges import Charge, Who
from accounting.billing.focus import COLUMNS, FocusError, check, focus_rows
from accounting.billing.invoice import invoices
from accounting.billing.tariff import Tariff, Tariffs
from accounting.billing.terms import Terms
from accounting.billing.units import joules

rates = st.sampled_from([("low", 123_456_789), ("low", 200_000_000), ("high", 1), (None, None)])
own = st.integers(0, 10**13)


def charge(
    day: int, who: Who, component: str, rate: tuple[str | None, int | None], energy_uj: int, late: bool
) -> Charge:
    return Charge(
        day=f"2026-11-{day:02}",
        who=who,
        component=component,  # type: ignore[arg-type]
        billed=True,
        rate=rate[0],
        price=rate[1],
        energy_uj=-energy_uj if late and energy_uj % 2 else energy_uj,
        requests=1,
        location=energy_uj * 400_000_000,
        corrects="2026-10" if late else None,
    )


charges = st.lists(
    st.builds(
        charge,
        st.integers(1, 2),
        st.builds(
            Who,
            st.sampled_from([None, "lab", "web"]),
            st.none(),
            st.sampled_from(["k", None]),
            st.just("llama"),
        ),
        st.sampled_from(["gpu", "idle", "overhead"]),
        rates,
        own,
        st.booleans(),
    ),
    max_size=12,
)
currencies = st.sampled_from(["EUR", "JPY", "KWD"])


@settings(deadline=None, max_examples=60)
@given(charges, currencies)
def test_rows_sum_to_the_invoices_and_ratios_to_one(charges: list[Charge], currency: str) -> None:
    terms = Terms(currency=currency, tariffs=Tariffs(tariffs=(Tariff(name="low", price=1),)))
    rows = list(focus_rows("2026-11", charges, terms))
    assert check(rows) == []
    billed: dict[object, Decimal] = defaultdict(Decimal)
    for row in rows:
        assert isinstance(row["BilledCost"], Decimal)
        billed[row["InvoiceId"]] += row["BilledCost"]
    drawn = invoices("2026-11", charges, terms, closed=False)
    assert billed == {i.number: i.amount for i in drawn if i.amount is not None}
    priced_uj = sum(c.energy_uj for c in charges if c.price is not None)
    assert sum(row["x_EnergyJoules"] for row in rows) == joules(priced_uj)  # type: ignore[misc]
    for row in rows:
        price, quantity, cost = row["ListUnitPrice"], row["PricingQuantity"], row["ListCost"]
        if row["ChargeClass"] is None:
            assert abs(Decimal(str(price)) * Decimal(str(quantity)) - Decimal(str(cost))) <= Decimal("1e-17")
            assert row["ConsumedQuantity"] == row["x_EnergyJoules"]
        else:
            assert (price, quantity, row["ConsumedQuantity"], row["SkuId"]) == (None, None, None, None)
            assert (row["ChargeCategory"], row["x_Corrects"]) == ("Adjustment", "2026-10")
        assert row["EffectiveCost"] == row["BilledCost"]


def test_what_breaks_a_rule_is_found() -> None:
    terms = Terms(currency="EUR")
    (row, other) = focus_rows(
        "2026-11", [charge(1, Who(name), "gpu", ("low", 5), 100, False) for name in ("lab", "web")], terms
    )
    assert check([row, other]) == []
    assert check([row])[0].startswith("ratios of")
    assert check([{**row, "BilledCost": None}, other]) == ["row 1: BilledCost is null"]
    assert check([{"BilledCost": Decimal(1)}]) == ["row 1: not the columns of the data set"]


def test_columns_are_those_of_focus_or_begin_with_x() -> None:
    names = [column.name for column in COLUMNS]
    assert names == sorted(names)
    assert [name for name in names if name.startswith("x_")] == names[-9:]


def test_details_are_json_with_every_digit() -> None:
    thirds = [charge(1, Who(name), "idle", ("low", 5), 10**12, False) for name in ("a", "b", "c")]
    rows = focus_rows("2026-11", thirds, Terms(currency="EUR"))
    ratios = [
        json.loads(str(row["AllocatedMethodDetails"]), parse_float=str)["Elements"][0]["AllocatedRatio"]
        for row in rows
    ]
    assert ratios == ["0.333333333334", "0.333333333333", "0.333333333333"]


def test_without_a_currency_there_is_no_focus() -> None:
    with pytest.raises(FocusError, match=r"billing\.currency"):
        list(focus_rows("2026-11", [], Terms()))


def test_charges_come_back_from_the_store_as_they_went_in() -> None:
    """Carbon has more digits than 64 bits."""
    one = charge(1, Who("lab", None, "k", "llama"), "gpu", ("low", 5), 10**13, False)
    assert (one.location or 0) > 2**64
    assert msgspec.json.decode(msgspec.json.encode(one), type=Charge) == one
