"""xDiT behind its adapter: OpenAI's client gets images, and each has its joules."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.dialects.diffusion import IMAGE
from tests.proxy.media.studio import BUSY_W, Studio, studio

STEP_S = 0.03


@pytest.fixture(scope="module")
def xdit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    backend = {"kind": "xdit", "models": ["flux"]}
    with studio(tmp_path_factory.mktemp("xdit"), "xdit", step_s=STEP_S, quiet=False, backend=backend) as one:
        yield one


def test_several_images_are_made_one_after_the_other(xdit: Studio) -> None:
    answer = xdit.openai.images.generate(
        model="flux",
        prompt="a joule",
        n=2,
        size="512x512",
        extra_body={"num_inference_steps": 10, "seed": 7, "guidance_scale": 3.5},
        extra_headers={"x-request-id": "two"},
    )
    assert answer.data is not None
    assert [image.b64_json for image in answer.data] == [IMAGE, IMAGE]
    asked = [work.fields for work in xdit.server.served]
    assert [(f["seed"], f["cfg"], f["width"], f["num_inference_steps"]) for f in asked] == [
        (7, 3.5, 512, 10),
        (8, 3.5, 512, 10),
    ]
    record = xdit.record("two")
    assert (record["status"], record["backend"], record["media"]["count"]) == ("ok", "xdit", 2)
    assert record["energy_joules"] == pytest.approx(BUSY_W * 20 * STEP_S, rel=0.45)


def test_what_xdit_cannot_do_is_refused(xdit: Studio) -> None:
    for fields in ({"prompt": ""}, {"prompt": "x", "n": 11}, {"prompt": "x", "response_format": "url"}):
        answer = xdit.stack.post({"model": "flux", **fields}, "/v1/images/generations")
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        xdit.openai.images.create_variation(image=b"x", model="flux")


def test_its_models_are_those_of_the_settings(xdit: Studio) -> None:
    assert [model.id for model in xdit.openai.models.list()] == ["flux"]
