"""The energy routes, over a real store in an SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from accounting.events import Media
from accounting.store import queries
from accounting.store.engine import connect, migrate
from accounting.store.queries import Cursor, StoreReader
from accounting.store.writer import StoreWriter
from proxy import errors
from proxy.routes import energy
from tests.accounting.store.examples import T0_US, book, correction, record

T0_S = T0_US / 1e6


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/data/store.db")
    migrate(engine)
    writer = StoreWriter(engine, "journal-1")
    writer.put([record(n, tenant="other" if n == 3 else "acme") for n in range(5)], segment=0)
    writer.put([book(n, gpu) for n in range(4) for gpu in ("GPU-a", "GPU-b")], segment=0)
    assert writer.close(timeout_s=20)
    yield engine
    engine.dispose()


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    app = FastAPI()
    errors.install(app)
    app.include_router(energy.router)
    app.state.energy, app.state.pue = StoreReader(engine), 1.25
    with TestClient(app) as client:
        yield client


def store(engine: Engine, *outputs: Any) -> None:
    writer = StoreWriter(engine, "journal-1")
    writer.put(outputs, segment=0)
    assert writer.close(timeout_s=20)


def data(client: TestClient, path: str, **query: object) -> list[dict[str, Any]]:
    answer = client.get(path, params={k: str(v) for k, v in query.items()})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["object"] == "list"
    return list(found["data"])


def fault(client: TestClient, path: str, **query: object) -> tuple[int, dict[str, Any]]:
    answer = client.get(path, params={k: str(v) for k, v in query.items()})
    return answer.status_code, answer.json()["error"]


def ids(found: list[dict[str, Any]]) -> list[int]:
    return [int(view["id"].removeprefix("uid-")) for view in found]


def test_images_and_videos_are_shown_with_joules_for_each(engine: Engine, client: TestClient) -> None:
    video = Media(kind="video", width=832, height=480, steps=50, frames=80, fps=16.0)
    store(engine, record(7, media=video, job="video_1"), record(8, media=Media(kind="image", count=3)))
    view = client.get("/v1/energy/requests/req-7").json()
    assert view["job"] == "video_1"
    assert view["media"] == {
        "kind": "video",
        "count": 1,
        "size": "832x480",
        "steps": 50,
        "frames": 80,
        "fps": 16.0,
        "seconds": 5.0,
        "joules_per_image": None,
        "joules_per_video_second": 9.000001 / 5,
        "joules_per_step": 9.000001 / 50,
    }
    images = client.get("/v1/energy/requests/req-8").json()["media"]
    assert (images["count"], images["size"], images["joules_per_image"]) == (3, None, 9.000001 / 3)


@pytest.mark.parametrize("key", ["uid-000002", "req-2"])
def test_a_request_is_shown_with_every_figure(client: TestClient, key: str) -> None:
    assert client.get(f"/v1/energy/requests/{key}").json() == {
        "object": "energy.request",
        "id": "uid-000002",
        "request_id": "req-2",
        "tenant": "acme",
        "project": None,
        "user_id": None,
        "api_key": None,
        "model": "llama",
        "backend": "main",
        "route": "/v1/chat/completions",
        "streamed": True,
        "status": "ok",
        "http_status": 200,
        "error": None,
        "started_at": 1_790_000_001.3,
        "scheduled_at": 1_790_000_001.3,
        "first_token_at": 1_790_000_001.4,
        "finished_at": 1_790_000_002.0,
        "prompt_tokens": 11,
        "cached_tokens": None,
        "completion_tokens": 20,
        "tokens_from": "engine",
        "energy_joules": 9.000001,
        "prefill_joules": 2.0,
        "decode_joules": 7.000001,
        "joules_per_output_token": 9.000001 / 20,
        "dynamic_joules": None,
        "static_joules": None,
        "quality": None,
        "uncertainty_joules": 0.4,
        "energy_uj": 9_000_001,
        "prefill_uj": 2_000_000,
        "decode_uj": 7_000_001,
        "dynamic_uj": None,
        "uncertainty_uj": 400_000,
        "unmeasured_seconds": 0.0,
        "attribution_method": "steps",
        "meter": "nvml-counter",
        "simulated": True,
        "state": "final",
        "corrected_at": None,
        "correction_joules": None,
        "gpus": [
            {
                "gpu": "GPU-a",
                "energy_uj": 4_000_001,
                "prefill_uj": 1_000_000,
                "decode_uj": 3_000_001,
                "energy_joules": 4.000001,
            },
            {
                "gpu": "GPU-b",
                "energy_uj": 5_000_000,
                "prefill_uj": 1_000_000,
                "decode_uj": 4_000_000,
                "energy_joules": 5.0,
            },
        ],
        "host_joules": None,
        "host_uj": None,
        "host_method": None,
        "media": None,
        "job": None,
        "host_unmeasured_seconds": None,
        "pue": 1.25,
        "facility_joules": None,
    }


def test_a_corrected_request_says_so_and_by_how_much(client: TestClient, engine: Engine) -> None:
    store(engine, correction(2))
    shown = client.get("/v1/energy/requests/uid-000002").json()
    assert (shown["energy_uj"], shown["prefill_uj"], shown["decode_uj"]) == (10_500_001, 4_000_000, 6_500_001)
    assert (shown["corrected_at"], shown["correction_joules"]) == (1_790_000_005.0, 1.5)
    assert (shown["state"], shown["uncertainty_uj"]) == ("final", 300_000)
    assert shown["first_token_at"] == 1_790_000_001.5
    assert [gpu["energy_uj"] for gpu in shown["gpus"]] == [4_500_001, 6_000_000]
    listed = {view["id"]: view for view in data(client, "/v1/energy/requests")}
    assert listed["uid-000002"] == shown
    assert listed["uid-000001"]["correction_joules"] is None


def test_what_was_not_measured_is_null_and_never_0(client: TestClient, engine: Engine) -> None:
    unknown: dict[str, Any] = {
        "energy_uj": None,
        "prefill_uj": None,
        "decode_uj": None,
        "uncertainty_uj": None,
        "shares": [],
    }
    none = record(9, unmeasured_us=0, meter="none", first_token_us=None, **unknown)
    store(engine, none)
    shown = client.get("/v1/energy/requests/uid-000009").json()
    for name in ("energy", "prefill", "decode", "uncertainty"):
        assert (shown[f"{name}_uj"], shown[f"{name}_joules"]) == (None, None)
    assert (shown["joules_per_output_token"], shown["first_token_at"]) == (None, None)
    assert shown["gpus"] == []
    assert shown["unmeasured_seconds"] == (none.finished_us - none.started_us) / 1e6 > 0


@pytest.mark.parametrize("tokens", [0, None])
def test_without_output_tokens_there_is_no_energy_per_token(
    client: TestClient, engine: Engine, tokens: int | None
) -> None:
    store(engine, record(9, completion_tokens=tokens))
    shown = client.get("/v1/energy/requests/uid-000009").json()
    assert (shown["joules_per_output_token"], shown["energy_uj"]) == (None, 9_000_001)


def test_a_request_nobody_knows_is_404_in_openai_shape(client: TestClient) -> None:
    code, error = fault(client, "/v1/energy/requests/nobody")
    assert code == 404
    assert error["type"] == "not_found_error"
    assert "nobody" in error["message"]


@pytest.mark.parametrize("name", ["a/b", "a b", "a%b", "\u00e9?#"])
def test_a_request_id_may_hold_any_character(client: TestClient, engine: Engine, name: str) -> None:
    store(engine, record(9, request_id=name))
    assert client.get(f"/v1/energy/requests/{quote(name, safe='')}").json()["request_id"] == name


def test_requests_are_listed_newest_first_page_by_page(client: TestClient) -> None:
    seen: list[int] = []
    query: dict[str, str] = {"limit": "2"}
    lengths = []
    while True:
        answer = client.get("/v1/energy/requests", params=query).json()
        seen += ids(answer["data"])
        lengths.append(len(answer["data"]))
        assert answer["has_more"] == (answer["next_page"] is not None)
        if not answer["has_more"]:
            break
        query["after"] = answer["next_page"]
    assert (seen, lengths) == ([4, 3, 2, 1, 0], [2, 2, 1])


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"tenant": "other"}, [3]),
        ({"model": "llama", "limit": 1}, [4]),
        ({"backend": "nowhere"}, []),
        ({"status": "lost"}, []),
        ({"route": "/v1/chat/completions", "start_time": T0_S + 3}, [4, 3]),
        ({"end_time": T0_S + 1}, [0]),
        ({"start_time": f"{T0_S + 2:.6f}", "end_time": f"{T0_S + 2.000001:.6f}"}, [2]),
        ({"start_time": f"{T0_S + 2.000001:.6f}", "end_time": f"{T0_S + 3:.6f}"}, []),
    ],
)
def test_a_list_can_be_narrowed(client: TestClient, query: dict[str, object], numbers: list[int]) -> None:
    assert ids(data(client, "/v1/energy/requests", **query)) == numbers


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"status": "fine"}, "status"),
        ({"start_time": "yesterday"}, "start_time"),
        ({"start_time": "nan"}, "start_time"),
        ({"start_time": "-1"}, "start_time"),
        ({"end_time": "1e300"}, "end_time"),
        ({"end_time": "inf"}, "end_time"),
        ({"start_time": 5, "end_time": 5}, "end_time"),
        ({"after": "garbage"}, "after"),
        ({"after": ""}, "after"),
        ({"after": "\u00e9"}, "after"),
        ({"after": "MTIz"}, "after"),
        ({"after": energy.encode_cursor(Cursor(2**63, "x"))}, "after"),
        ({"after": energy.encode_cursor(Cursor(-1, "x"))}, "after"),
        ({"after": energy.encode_cursor(Cursor(1, "x")) + "="}, "after"),
    ],
)
def test_a_question_that_makes_no_sense_is_400_and_says_where(
    client: TestClient, query: dict[str, object], param: str
) -> None:
    code, error = fault(client, "/v1/energy/requests", **query)
    assert (code, error["type"], error["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize("uid", ["x", "", "a:b", "\u00e9\U0001f50b", "y" * 512])
def test_a_cursor_survives_its_encoding(uid: str) -> None:
    cursor = Cursor(T0_US, uid)
    assert energy.decode_cursor(energy.encode_cursor(cursor)) == cursor


def test_books_show_each_gpu_and_the_total(client: TestClient) -> None:
    answer = client.get("/v1/energy/books").json()
    row = {
        "gpu": "GPU-a",
        "boundary": "gpu",
        "bucket_start_time": None,
        "start_time": T0_S,
        "end_time": T0_S + 2,
        "measured_uj": 400,
        "requests_uj": 240,
        "idle_uj": 100,
        "unobserved_uj": 40,
        "unmeasured_uj": 20,
        "measured_joules": 0.0004,
        "requests_joules": 0.00024,
        "idle_joules": 0.0001,
        "unobserved_joules": 0.00004,
        "unmeasured_joules": 0.00002,
        "covered_seconds": 2.0,
        "not_covered_seconds": 0.0,
        "intervals": 4,
        "balanced": True,
    }
    assert answer["object"] == "list"
    assert answer["data"] == [row, {**row, "gpu": "GPU-b"}]
    total = answer["total"]
    assert (total["gpu"], total["measured_uj"], total["covered_seconds"]) == (None, 800, 4.0)
    assert total["balanced"]


def test_the_host_is_in_the_books_and_in_no_sum_of_gpus(client: TestClient, engine: Engine) -> None:
    before = client.get("/v1/energy/books").json()
    assert before["host_total"] is None
    store(engine, book(0, "host:node1", measured_uj=1100, idle_uj=1025, method="rapl"))
    answer = client.get("/v1/energy/books").json()
    assert [(row["gpu"], row["boundary"]) for row in answer["data"]] == [
        ("GPU-a", "gpu"),
        ("GPU-b", "gpu"),
        ("host:node1", "host"),
    ]
    assert answer["total"] == before["total"]
    host = answer["host_total"]
    assert (host["gpu"], host["boundary"], host["measured_uj"]) == (None, "host", 1100)
    assert data(client, "/v1/energy/books", gpu="host:node1") == [{**host, "gpu": "host:node1"}]


def test_a_request_has_its_part_of_the_host_and_of_the_building(client: TestClient, engine: Engine) -> None:
    known = {"host_uj": 3_000_003, "host_method": "estimate", "host_unmeasured_us": 0}
    store(engine, record(7, **known), record(8, **{**known, "host_unmeasured_us": 250_000}))
    shown = client.get("/v1/energy/requests/uid-000007").json()
    assert (shown["host_joules"], shown["host_uj"]) == (3.000003, 3_000_003)
    assert (shown["host_method"], shown["host_unmeasured_seconds"]) == ("estimate", 0.0)
    assert shown["energy_uj"] == 9_000_001
    assert (shown["pue"], shown["facility_joules"]) == (1.25, 15.000005)
    part = client.get("/v1/energy/requests/uid-000008").json()
    assert (part["host_uj"], part["host_unmeasured_seconds"]) == (3_000_003, 0.25)
    assert part["facility_joules"] is None
    assert {view["id"]: view for view in data(client, "/v1/energy/requests")}["uid-000007"] == shown


def test_books_can_be_narrowed_to_a_gpu_and_a_time(client: TestClient) -> None:
    (row,) = data(client, "/v1/energy/books", gpu="GPU-b", start_time=T0_S + 0.5, end_time=T0_S + 1.5)
    assert (row["gpu"], row["intervals"], row["start_time"], row["end_time"]) == (
        "GPU-b",
        2,
        T0_S + 0.5,
        T0_S + 1.5,
    )


def test_books_come_in_buckets(client: TestClient) -> None:
    rows = data(client, "/v1/energy/books", gpu="GPU-a", bucket_width_s=1)
    assert [(row["bucket_start_time"], row["intervals"]) for row in rows] == [(T0_S, 2), (T0_S + 1, 2)]


def test_without_books_the_total_is_null(client: TestClient) -> None:
    assert client.get("/v1/energy/books", params={"gpu": "GPU-none"}).json() == {
        "object": "list",
        "data": [],
        "total": None,
        "host_total": None,
    }


def test_too_many_buckets_are_400(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MAX_BOOK_ROWS", 3)
    code, error = fault(client, "/v1/energy/books", bucket_width_s=1)
    assert (code, error["param"]) == (400, "bucket_width_s")


def test_a_store_that_is_away_is_503(client: TestClient, engine: Engine, tmp_path: Path) -> None:
    engine.dispose()
    (tmp_path / "data").rename(tmp_path / "hidden")
    for path in ("/v1/energy/requests/x", "/v1/energy/requests", "/v1/energy/books"):
        code, error = fault(client, path)
        assert (code, error["code"]) == (503, "store_unavailable")


def test_the_openapi_document_describes_every_field(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("RequestView", "ShareView", "RequestList", "BooksView", "BooksList"):
        fields = schemas[name]["properties"]
        undescribed = [f for f, says in fields.items() if f != "object" and not says.get("description")]
        assert undescribed == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/energy/requests?tenat=acme", "tenat"),
        ("/v1/energy/requests/uid-000001?x=1", "x"),
        ("/v1/energy/books?bucket_width=60", "bucket_width"),
    ],
)
def test_a_filter_that_nobody_knows_does_not_answer_for_everybody(
    path: str, name: str, client: TestClient
) -> None:
    answer = client.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_parameter", name)
