"""Images through a real proxy: the energy in the answer, whose it is, and clients that leave."""

from __future__ import annotations

import io
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import openai
import pytest

from tests.dialects.diffusion import IMAGE
from tests.proxy.media.studio import BUSY_W, STEP_S, Studio
from tests.proxy.stack import until


def generate(studio: Studio, request_id: str, steps: int, **fields: Any) -> Any:
    return studio.openai.images.generate(
        model="tiny-omni",
        prompt="a joule",
        size=fields.pop("size", "256x256"),
        extra_body={"num_inference_steps": steps},
        extra_headers={"x-request-id": request_id},
        **fields,
    )


def test_the_openai_client_gets_its_image_with_the_energy_beside_it(omni: Studio) -> None:
    request_id = str(uuid4())
    answer = generate(omni, request_id, 8)
    assert answer.data[0].b64_json == IMAGE
    assert answer.energy["request_id"] == request_id
    assert answer.energy["energy_joules"] > 0
    record = omni.record(request_id)
    assert (record["status"], record["route"]) == ("ok", "/v1/images/generations")
    media = record["media"]
    assert (media["kind"], media["count"], media["size"], media["steps"]) == ("image", 1, "256x256", 8)
    assert media["joules_per_image"] == record["energy_joules"]
    assert record["first_token_at"] is None
    assert record["energy_joules"] == pytest.approx(BUSY_W * 8 * STEP_S, rel=0.25)


def test_four_at_once_get_what_each_cost_though_the_server_s_times_overlap(omni: Studio) -> None:
    steps = {str(uuid4()): count for count in (10, 20, 30, 20)}
    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip(steps, pool.map(lambda one: generate(omni, *one), steps.items()), strict=True))
    told_s = sum(a.metrics["stage_durations"]["stage_0_gen_ms"] for a in answers.values()) / 1000
    assert told_s > 1.7 * 80 * STEP_S
    records = {name: omni.record(name) for name in steps}
    per_step = {name: records[name]["energy_joules"] / steps[name] for name in steps}
    mean = sum(r["energy_joules"] for r in records.values()) / 80
    assert mean == pytest.approx(BUSY_W * STEP_S, rel=0.12)
    for figure in per_step.values():
        assert figure == pytest.approx(mean, rel=0.2)
    omni.stack.assert_balanced()


def test_edits_as_a_form_are_read_as_they_pass(omni: Studio) -> None:
    request_id = str(uuid4())
    picture = io.BytesIO(b"\x89PNG" + bytes(300_000))
    picture.name = "a.png"
    answer = omni.openai.images.edit(
        image=picture,
        prompt="hotter",
        model="tiny-omni",
        size="512x512",
        n=2,
        extra_body={"num_inference_steps": 3},
        extra_headers={"x-request-id": request_id},
    )
    assert answer.data is not None
    assert len(answer.data) == 2
    assert answer.to_dict()["energy"] is not None
    media = omni.record(request_id)["media"]
    assert (media["count"], media["size"], media["steps"]) == (2, "512x512", 3)


def test_a_refusal_passes_as_the_server_said_it_and_costs_nothing(omni: Studio) -> None:
    with pytest.raises(openai.BadRequestError, match="Model mismatch"):
        omni.openai.images.generate(model="nope", prompt="x", extra_headers={"x-request-id": "refused"})
    record = omni.record("refused")
    assert (record["status"], record["energy_uj"]) == ("client_error", 0)


def test_a_client_that_leaves_pays_until_the_server_is_done(omni: Studio) -> None:
    request_id = str(uuid4())
    generate(omni, "alone-before", 40)  # so that it is known how long this takes
    served = len(omni.server.served)
    parts = urlsplit(omni.proxy.url)
    body = b'{"model":"tiny-omni","prompt":"x","size":"256x256","num_inference_steps":40}'
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as leaving:
        head = f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        leaving.sendall(head.encode() + body)
        until(lambda: omni.server.running or None, "it is being made")
    until(lambda: len(omni.server.served) > served or None, "the server made it all the same")
    record = omni.record(request_id)
    assert (record["status"], record["http_status"]) == ("aborted", 499)
    assert record["energy_joules"] == pytest.approx(BUSY_W * 40 * STEP_S, rel=0.25)
    assert record["media"]["steps"] == 40
    omni.stack.assert_balanced()


def test_images_are_in_the_sums_of_usage(omni: Studio) -> None:
    size = "96x32"
    generate(omni, "three", 2, n=3, size=size)
    assert omni.record("three")["media"]["count"] == 3
    since = int(time.time()) - 3600
    wanted: dict[str, Any] = {"start_time": since, "bucket_width": "1d", "group_by": ["size"]}

    def counted() -> int:
        answer = omni.stack.client.get("/v1/organization/usage/images", params=wanted)
        assert answer.status_code == 200, answer.text
        rows = [row for bucket in answer.json()["data"] for row in bucket["results"]]
        return sum(row["images"] for row in rows if row["size"] == size)

    assert until(counted, "it is in the sums") == 3
