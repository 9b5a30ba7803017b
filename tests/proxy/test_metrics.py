"""Metrics of requests: numbers are right, labels are bounded, the conventions' names are used."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from accounting.events import Media
from accounting.records import Correction, RequestRecord
from proxy.metrics import Metrics
from proxy.operations import operation_of
from proxy.settings_observe import Metrics as Settings
from proxy.tallies import Histogram, Names
from tests.accounting.store.examples import correction, record


def request(**fields: Any) -> RequestRecord:
    plain = {
        "status": "ok",
        "started_us": 1_000_000,
        "first_token_us": 1_050_000,
        "finished_us": 2_050_000,
        "completion_tokens": 101,
        "energy_uj": 50_500_000,
        "prefill_uj": 500_000,
        "decode_uj": 50_000_000,
        "tenant": "acme",
    }
    return msgspec.structs.replace(record(1), **{**plain, **fields})


def samples(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(asyncio.run(metrics.text()).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def told(
    *records: RequestRecord | Correction, **settings: int
) -> dict[str, list[tuple[dict[str, str], float]]]:
    metrics = Metrics(Settings(**settings))
    for one in records:
        metrics.output(one)
    return samples(metrics)


def below(found: list[tuple[dict[str, str], float]], bound: str) -> float:
    (value,) = [value for labels, value in found if labels["le"] == bound]
    return value


def test_the_conventions_histograms_have_the_times_of_a_request() -> None:
    found = told(request())
    labels = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "llama", "tenant": "acme"}
    labels["gen_ai_request_model"] = request().model or ""
    assert found["gen_ai_server_request_duration_seconds_sum"] == [({**labels, "error_type": ""}, 1.05)]
    assert found["gen_ai_server_time_to_first_token_seconds_sum"] == [(labels, 0.05)]
    assert found["gen_ai_server_time_per_output_token_seconds_sum"] == [(labels, 0.01)]
    durations = found["gen_ai_server_request_duration_seconds_bucket"]
    assert [below(durations, bound) for bound in ("0.64", "1.28", "+Inf")] == [0, 1, 1]


def test_a_failed_request_has_a_duration_by_its_error_and_no_token_times() -> None:
    found = told(request(status="engine_error", http_status=502))
    ((labels, count),) = found["gen_ai_server_request_duration_seconds_count"]
    assert (labels["error_type"], count) == ("engine_error", 1)
    assert "gen_ai_server_time_to_first_token_seconds_count" not in found


def test_joules_are_counted_by_tenant_model_and_phase_and_per_token() -> None:
    found = told(request(), request(), request(tenant=None))
    joules = {(s["tenant"], s["phase"]): v for s, v in found["joulegate_request_energy_joules_total"]}
    assert joules == {
        ("acme", "prefill"): 1.0,
        ("acme", "decode"): 100.0,
        ("", "prefill"): 0.5,
        ("", "decode"): 50.0,
    }
    ((_, total),) = found["joulegate_joules_per_output_token_sum"]
    assert total == 3 * 0.5


def test_a_request_that_was_not_measured_adds_no_joules() -> None:
    found = told(request(energy_uj=None, prefill_uj=None, decode_uj=None))
    assert "joulegate_request_energy_joules_total" not in found
    assert "joulegate_request_energy_count" not in found
    assert [value for _, value in found["joulegate_requests_unmeasured_total"]] == [1]


def test_corrections_are_counted_apart_and_what_was_counted_stays() -> None:
    taken = correction(2, prefill_uj=-3_000_000, decode_uj=1_000_000)
    found = told(request(), correction(1), taken, correction(3))
    assert found["joulegate_corrections_total"] == [({}, 3.0)]
    joules = {labels["direction"]: value for labels, value in found["joulegate_corrected_joules_total"]}
    assert joules == {"gained": 3.0, "lost": 2.0}
    assert sum(value for _, value in found["joulegate_request_energy_joules_total"]) == 50.5
    assert [value for _, value in found["joulegate_requests_total"]] == [1.0]


def test_tenants_and_models_beyond_the_bound_are_other() -> None:
    records = [request(tenant=f"t{n}", model=f"m{n}") for n in range(200)]
    found = told(*records, max_tenants=3, max_models=2)
    tenants = {labels["tenant"] for labels, _ in found["joulegate_requests_total"]}
    models = {labels["model"] for labels, _ in found["joulegate_requests_total"]}
    assert tenants == {"t0", "t1", "t2", "other"}
    assert models == {"m0", "m1", "other"}
    assert sum(value for _, value in found["joulegate_requests_total"]) == 200


def test_a_model_that_no_engine_served_takes_no_place() -> None:
    junk = [request(model=f"junk{n}", status="client_error", http_status=404) for n in range(10)]
    found = told(*junk, request(model="real"), max_models=1)
    assert {labels["model"] for labels, _ in found["joulegate_requests_total"]} == {"", "real"}


def test_no_label_names_a_request() -> None:
    found = told(request())
    labels = {name for samples in found.values() for labels, _ in samples for name in labels}
    assert labels.isdisjoint({"request_id", "uid", "id", "trace_id"})


def test_a_histogram_counts_a_value_on_a_bound_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 99.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == 104.0


def test_names_that_are_known_stay_known_when_the_bound_is_reached() -> None:
    names = Names(1)
    assert [names.label(name) for name in ("a", "b", "a", "")] == ["a", "other", "a", ""]


def test_operations_have_the_conventions_names_and_are_bounded() -> None:
    routes = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v2/rerank", "/v1/what/ever"]
    assert [operation_of(r) for r in routes] == ["chat", "text_completion", "embeddings", "rerank", "other"]


def test_images_and_videos_are_counted_with_their_joules() -> None:
    image = Media(kind="image", count=2, width=64, height=64)
    video = Media(kind="video", frames=80, fps=16.0)
    found = told(
        request(media=image, energy_uj=50_000_000),
        request(media=video, energy_uj=400_000_000),
        request(media=video, status="aborted"),
    )
    made = {labels["kind"]: value for labels, value in found["joulegate_media_outputs_total"]}
    assert made == {"image": 2, "video": 1}
    assert [value for _, value in found["joulegate_video_seconds_total"]] == [5.0]
    each = {labels["kind"]: value for labels, value in found["joulegate_joules_per_media_output_sum"]}
    assert each == {"image": 25.0, "video": 400.0}
    assert [value for _, value in found["joulegate_joules_per_video_second_sum"]] == [80.0]
