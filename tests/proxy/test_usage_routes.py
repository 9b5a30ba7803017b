"""The usage and costs routes on a real store, asked by OpenAI's client and checked by its models."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import BadRequestError, OpenAI
from openai.types.admin.organization import (
    UsageCompletionsResponse,
    UsageCostsResponse,
    UsageEmbeddingsResponse,
    UsageImagesResponse,
)
from sqlalchemy import Engine

from accounting.billing.focus import focus_rows
from accounting.billing.source import day_us, month_us
from accounting.billing.tariff import HOUR_US
from accounting.records import RequestRecord
from accounting.store.engine import connect, migrate
from accounting.store.writer import StoreWriter
from proxy import errors
from proxy.billing import Billing, billing_of
from proxy.routes import usage
from proxy.settings import Settings
from proxy.usage_query import CostsQuery, MediaQuery
from tests.accounting.store.examples import book, record

DAY_US = day_us("2026-11-23")
DAY_S = DAY_US // 1_000_000
SETTINGS = {
    "backends": [{"id": "a", "url": "http://127.0.0.1:9"}],
    "pue": 1.25,
    "billing": {
        "currency": "EUR",
        "idle": "by_use",
        "tariffs": [
            {"name": "lab", "price_per_kwh": "0.10", "projects": ["lab"]},
            {
                "name": "standard",
                "price_per_kwh": "0.30",
                "windows": [{"name": "peak", "start": "12:00", "end": "13:00", "price_per_kwh": "0.60"}],
            },
        ],
    },
    "carbon": {"location_g_per_kwh": 400, "embodied_g_per_gpu_hour": 10},
}
KWH_UJ = 3_600_000_000_000


def used(number: int, at_us: int, tenant: str | None, energy_uj: int | None, **more: Any) -> RequestRecord:
    prefill_uj = None if energy_uj is None else 0
    given = {"tenant": tenant, "energy_uj": energy_uj, "prefill_uj": prefill_uj, "decode_uj": energy_uj}
    return record(number, started_us=at_us, finished_us=at_us, shares=[], **given, **more)


RECORDS = [
    used(1, DAY_US, "lab", KWH_UJ, model="llama", cached_tokens=3),
    used(2, DAY_US + 12 * HOUR_US, "web", 2 * KWH_UJ, model="qwen", user_id="ann", api_key="key-1"),
    used(
        3,
        DAY_US + 13 * HOUR_US,
        "ignored",
        KWH_UJ,
        model="qwen",
        project="web",
        api_key="key-2",
        status="aborted",
    ),
    used(4, DAY_US + 13 * HOUR_US, "web", None, model="qwen", prompt_tokens=None, completion_tokens=None),
    used(5, DAY_US + 14 * HOUR_US, "web", 7, route="/v1/embeddings", completion_tokens=None),
    used(6, DAY_US + 2 * 24 * HOUR_US, None, 11, route="/v1/images/edits"),
    used(7, DAY_US + 2 * 24 * HOUR_US, None, 13, route="/v1/videos"),
    used(8, DAY_US + 3 * 24 * HOUR_US - 1, "lab", 17, route="/v1/responses"),
    used(9, DAY_US, "lab", None, status="rejected", http_status=429),
]
IDLE: dict[str, Any] = {
    "measured_uj": KWH_UJ,
    "idle_uj": KWH_UJ,
    "requests_uj": 0,
    "unobserved_uj": 0,
    "unmeasured_uj": 0,
}
BOOKS = [book(1, t0_us=DAY_US, t1_us=DAY_US + HOUR_US, **IDLE)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path_factory.mktemp('usage')}/data/store.db")
    migrate(engine)
    writer = StoreWriter(engine, "journal-1")
    writer.put([*RECORDS, *BOOKS], segment=0)
    assert writer.close(timeout_s=20)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def billing(engine: Engine) -> Billing:
    return billing_of(Settings.model_validate(SETTINGS), engine)


@pytest.fixture(scope="module")
def url(billing: Billing) -> Iterator[str]:
    """A server of the routes alone."""
    app = FastAPI()
    errors.install(app)
    app.include_router(usage.router)
    app.state.billing = billing
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key="none", admin_api_key="none", max_retries=0) as client:
        yield client


def page(url: str, path: str, **query: Any) -> dict[str, Any]:
    answer = httpx.get(f"{url}/organization/{path}", params={"start_time": DAY_S, **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert set(found) == {"object", "data", "has_more", "next_page"}
    assert all(set(bucket) == {"object", "start_time", "end_time", "results"} for bucket in found["data"])
    return found


def told(answer: Any) -> list[Any]:
    """The results of the first bucket; their type is a union of all that OpenAI has."""
    return list(answer.data[0].results)


def results(found: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [bucket["results"] for bucket in found["data"]]


def test_days_without_use_are_empty_buckets(client: OpenAI) -> None:
    found = client.admin.organization.usage.completions(start_time=DAY_S, end_time=DAY_S + 3 * 86_400)
    assert (found.object, found.has_more, found.next_page) == ("page", False, None)
    assert [(b.start_time - DAY_S, b.end_time - DAY_S, len(b.results)) for b in found.data] == [
        (0, 86_400, 1), (86_400, 172_800, 0), (172_800, 259_200, 1)
    ]  # fmt: skip


def test_tokens_requests_and_joules_are_summed(client: OpenAI) -> None:
    found = client.admin.organization.usage.completions(start_time=DAY_S, limit=1)
    (result,) = told(found)
    assert result.object == "organization.usage.completions.result"
    assert (result.input_tokens, result.output_tokens, result.input_cached_tokens) == (33, 60, 3)
    assert result.num_model_requests == 4  # not the rejected one
    assert [result.project_id, result.user_id, result.api_key_id, result.model] == [None] * 4
    ours = result.model_extra or {}
    assert (ours["energy_uj"], ours["energy_joules"]) == (4 * KWH_UJ, 14_400_000.0)
    assert (ours["num_requests_without_energy"], ours["num_requests_without_usage"]) == (1, 1)
    # 1 kWh at 0.10, 2 at the peak's 0.60, 1 at 0.30.
    assert ours["cost"] == {"value": 1.6, "currency": "eur"}
    assert ours["carbon_grams_location"] == 4 * 400 * 1.25
    assert ours["carbon_grams_market"] is None
    # M: one GPU for an hour, 10 g, by energy; all but a trifle of it is theirs.
    assert ours["sci_grams_per_request"] == pytest.approx((2000 + 10) / 4)
    assert ours["sci_grams_per_1k_tokens"] == pytest.approx(1000 * 2010 / 93)


def test_groups_are_told_by_name_and_others_are_null(client: OpenAI) -> None:
    found = client.admin.organization.usage.completions(
        start_time=DAY_S, limit=1, group_by=["project_id", "api_key_id", "batch", "service_tier"]
    )
    assert [
        (
            r.project_id,
            r.api_key_id,
            r.model,
            r.user_id,
            r.batch,
            r.service_tier,
            (r.model_extra or {})["energy_uj"],
        )
        for r in told(found)
    ] == [
        ("lab", None, None, None, False, "default", KWH_UJ),
        ("web", None, None, None, False, "default", None),
        ("web", "key-1", None, None, False, "default", 2 * KWH_UJ),
        ("web", "key-2", None, None, False, "default", KWH_UJ),
    ]


def test_filters_leave_out_what_is_not_wanted(client: OpenAI) -> None:
    ask = client.admin.organization.usage.completions
    asked: list[dict[str, Any]] = [
        {"project_ids": ["web"]},
        {"models": ["llama", "other"]},
        {"user_ids": ["ann"]},
        {"api_key_ids": ["key-2"]},
        {"project_ids": ["lab"], "models": ["qwen"]},
        {"batch": True},
    ]
    counts = [
        sum(r.num_model_requests for r in told(ask(start_time=DAY_S, limit=1, **query))) for query in asked
    ]
    assert counts == [3, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("usage/completions", UsageCompletionsResponse),
        ("usage/embeddings", UsageEmbeddingsResponse),
        ("usage/images", UsageImagesResponse),
        ("costs", UsageCostsResponse),
    ],
)
def test_answers_are_what_openai_s_models_say(url: str, path: str, model: Any) -> None:
    answer = page(url, path, end_time=DAY_S + 3 * 86_400, group_by=["project_id", "api_key_id"])
    checked = model.model_validate(answer, strict=True)
    assert checked.to_dict() == answer
    found = [result for bucket in checked.data for result in bucket.results]
    assert found
    for result in found:
        fields = type(result).model_fields
        assert all(name in result.to_dict() for name in ("project_id", "api_key_id", "object"))
        assert {name for name, field in fields.items() if field.is_required()} <= set(result.to_dict())


def test_hours_and_minutes_are_buckets_as_well(url: str) -> None:
    noon_s = DAY_S + 12 * 3600
    hours = page(url, "usage/completions", start_time=noon_s, end_time=noon_s + 7200, bucket_width="1h")
    assert [[r["num_model_requests"] for r in found] for found in results(hours)] == [[1], [2]]
    minutes = page(url, "usage/completions", start_time=noon_s + 30, end_time=noon_s + 90, bucket_width="1m")
    assert [(b["start_time"] - noon_s, len(b["results"])) for b in minutes["data"]] == [(0, 1), (60, 0)]
    assert minutes["data"][0]["results"][0]["cost"] == {"value": 1.2, "currency": "eur"}


def test_a_day_is_the_sum_of_its_hours_at_every_price(url: str) -> None:
    def sums(width: str) -> tuple[int, float]:
        asked = {"end_time": DAY_S + 86_400, "bucket_width": width, "group_by": ["project_id", "model"]}
        found = [r for part in results(page(url, "usage/completions", **asked)) for r in part]
        costs = sum(r["cost"]["value"] for r in found if r["cost"] is not None)
        return sum(r["energy_uj"] or 0 for r in found), round(costs, 9)

    assert sums("1d") == sums("1h") == (4 * KWH_UJ, 1.6)


@pytest.mark.parametrize(("width", "usual", "most"), [("1d", 7, 31), ("1h", 24, 168), ("1m", 60, 1440)])
def test_limits_are_openai_s(url: str, width: str, usual: int, most: int) -> None:
    query: dict[str, Any] = {"start_time": 0, "bucket_width": width}
    assert len(page(url, "usage/completions", **query)["data"]) == usual
    assert len(page(url, "usage/completions", **query, limit=most)["data"]) == most
    answer = httpx.get(f"{url}/organization/usage/completions", params={**query, "limit": most + 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


def test_pages_follow_each_other_without_gap_or_overlap(client: OpenAI) -> None:
    starts: list[int] = []
    more: dict[str, Any] = {}
    while True:
        found = client.admin.organization.usage.completions(
            start_time=DAY_S, end_time=DAY_S + 5 * 86_400, limit=2, **more
        )
        starts += [bucket.start_time for bucket in found.data]
        assert found.has_more == (found.next_page is not None)
        if found.next_page is None:
            break
        more = {"page": found.next_page}
    assert starts == [DAY_S + n * 86_400 for n in range(5)]


def test_plain_names_of_lists_do_as_well_as_brackets(url: str) -> None:
    plain = page(url, "usage/completions", group_by="model", models=["qwen", "llama"])
    brackets = page(url, "usage/completions", **{"group_by[]": "model", "models[]": ["qwen", "llama"]})
    assert plain == brackets
    assert [r["model"] for r in results(plain)[0]] == ["llama", "qwen"]


@pytest.mark.parametrize("spelling", ["project_ids[0]", "project_ids[][]", "PROJECT_IDS"])
def test_no_other_spelling_of_a_list_is_heard(spelling: str, url: str) -> None:
    """Whoever narrows a question to a project (proxy/access) has to know them all."""
    query: dict[str, str | int] = {"start_time": DAY_S, "project_ids": "lab", spelling: "web"}
    answer = httpx.get(f"{url}/organization/usage/completions", params=query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start_time": None}, "start_time"),
        ({"start_time": "soon"}, "start_time"),
        ({"start_time": -1}, "start_time"),
        ({"start_time": 2**70}, "start_time"),
        ({"end_time": DAY_S}, "end_time"),
        ({"bucket_width": "2d"}, "bucket_width"),
        ({"group_by": "colour"}, "group_by"),
        ({"limit": 0}, "limit"),
        ({"page": "page_bm9uZQ"}, "page"),
        ({"page": "page_0"}, "page"),
    ],
)
def test_bad_parameters_are_told_in_openai_s_shape(url: str, query: dict[str, Any], param: str) -> None:
    asked = {name: value for name, value in {"start_time": DAY_S, **query}.items() if value is not None}
    answer = httpx.get(f"{url}/organization/usage/completions", params=asked)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], set(error)) == (
        "invalid_request_error", param, {"message", "type", "param", "code"}
    )  # fmt: skip


odd = st.one_of(
    st.text(max_size=8),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        ["", "1e9", "nan", "\0", "page_", "1h", "1m", "model", "project_id", "line_item", "true"]
    ),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["usage/completions", "usage/embeddings", "usage/images", "usage/videos", "costs"]),
    st.dictionaries(st.sampled_from([*MediaQuery.model_fields, *CostsQuery.model_fields]), odd, max_size=4),
)
def test_no_question_is_too_odd_to_be_answered(url: str, path: str, query: dict[str, str]) -> None:
    answer = httpx.get(f"{url}/organization/{path}", params={"start_time": str(DAY_S), **query})
    assert answer.status_code in (200, 400), answer.text
    assert set(answer.json()) in ({"object", "data", "has_more", "next_page"}, {"error"})


def test_openai_s_client_raises_its_own_error(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as raised:
        client.admin.organization.usage.completions(start_time=DAY_S, limit=99)
    assert raised.value.param == "limit"


def test_costs_have_line_items_with_joules(client: OpenAI) -> None:
    found = client.admin.organization.usage.costs(
        start_time=DAY_S, limit=1, group_by=["project_id", "line_item"]
    )
    items = [
        (r.project_id, r.line_item, r.quantity, r.quantity_unit, (r.amount.value, r.amount.currency))
        for r in told(found)
    ]
    assert items[:2] == [
        ("lab", "idle_energy", 900_000.0, "joules", (pytest.approx(0.025), "eur")),
        ("lab", "llama, gpu_energy", 3_600_000.0, "joules", (0.1, "eur")),
    ]
    assert [item for project, item, *_ in items if project == "web"] == [
        "idle_energy",
        "llama, gpu_energy",
        "qwen, gpu_energy",
    ]
    (whole,) = told(client.admin.organization.usage.costs(start_time=DAY_S, limit=1))
    assert (whole.line_item, whole.quantity, whole.quantity_unit) == (None, None, None)
    assert whole.amount is not None
    # Idle energy of midnight is at the price of midnight: a quarter of it at 0.10, the rest at 0.30.
    assert whole.amount.value == pytest.approx(1.6 + 0.025 + 0.225)


def test_usage_costs_focus_and_records_agree_to_the_microjoule(url: str, billing: Billing) -> None:
    raw_uj = sum(r.energy_uj or 0 for r in RECORDS)
    window = {"end_time": DAY_S + 3 * 86_400}
    usage_uj = sum(
        result["energy_uj"] or 0
        for kind in ("completions", "embeddings", "images", "videos")
        for found in results(page(url, f"usage/{kind}", **window))
        for result in found
    )
    items = [r for found in results(page(url, "costs", **window, group_by="line_item")) for r in found]
    costs_uj = sum(r["energy_uj"] for r in items if r["line_item"].endswith("gpu_energy"))
    month = billing.bills.month("2026-11")
    assert month_us("2026-11")[0] < DAY_US < month_us("2026-11")[1]
    rows: list[dict[str, Any]] = list(focus_rows("2026-11", month.charges, month.terms))
    of_gpus = [row for row in rows if row["x_Component"] == "gpu"]
    focus_uj = sum(row["x_EnergyJoules"] * 10**6 for row in of_gpus)
    assert (usage_uj, costs_uj, focus_uj) == (raw_uj, raw_uj, raw_uj)
    requests = sum(row["x_Requests"] for row in rows)
    assert requests == len(RECORDS) - 1  # not the rejected one


def test_a_store_that_is_away_is_said_to_be(url: str, engine: Engine) -> None:
    engine.dispose()
    path = Path(str(engine.url.database)).parent
    path.rename(path.with_name("hidden"))
    answer = httpx.get(f"{url}/organization/usage/completions", params={"start_time": DAY_S})
    path.with_name("hidden").rename(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
