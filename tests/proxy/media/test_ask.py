"""What is asked for is read from JSON and from forms, wherever these are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accounting.events import Media
from proxy.media.ask import FIELDS, is_media, of_fields, of_json
from proxy.media.form import FormFields, form_of

IMAGES, VIDEOS = "/v1/images/generations", "/v1/videos"


@pytest.mark.parametrize(
    ("path", "body", "media"),
    [
        (IMAGES, {}, Media(kind="image")),
        (
            IMAGES,
            {"n": 2, "size": "64x32", "num_inference_steps": 4},
            Media(kind="image", count=2, width=64, height=32, steps=4),
        ),
        (IMAGES, {"size": "auto", "n": 0}, Media(kind="image")),
        (IMAGES, {"width": 512, "height": 256}, Media(kind="image", width=512, height=256)),
        (IMAGES, {"width": 512}, Media(kind="image")),
        (IMAGES, {"n": "three", "num_inference_steps": True, "fps": 8}, Media(kind="image")),
        (IMAGES, {"n": 1e400, "size": "0x9"}, Media(kind="image")),
        (VIDEOS, {"num_frames": 9, "fps": 8}, Media(kind="video", frames=9, fps=8.0)),
        (VIDEOS, {"seconds": "4", "fps": "24"}, Media(kind="video", frames=96, fps=24.0)),
        (VIDEOS, {"seconds": "4", "size": "832x480"}, Media(kind="video", width=832, height=480)),
    ],
)
def test_json_says_what_is_asked_for(path: str, body: dict[str, Any], media: Media) -> None:
    assert of_json(path, json.dumps(body).encode()) == media


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"n":\xff}', b"null"])
def test_what_cannot_be_read_asks_for_something_unknown(body: bytes) -> None:
    assert of_json(IMAGES, body) == Media(kind="image")


FILE = b"\r\n--X-not-the-boundary\r\n\x00\xff" * 300
FORM = (
    b'--XX\r\nContent-Disposition: form-data; name="image"; filename="n.png"\r\n'
    b"Content-Type: image/png\r\n\r\n"
    + FILE
    + b'\r\n--XX\r\nContent-Disposition: form-data; name="size"\r\n\r\n64x64'
    b'\r\n--XX\r\nContent-Disposition: form-data; name="fps"\r\n\r\n'
    b"\r\n--XX\r\ncontent-disposition: form-data; name=n\r\n\r\n2"
    b'\r\n--XX\r\nContent-Disposition: form-data; name="n"\r\n\r\n7'
    b'\r\n--XX\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nname="seconds"\r\n\r\n9'
    b'\r\n--XX\r\nContent-Disposition: form-data; name="num_inference_steps"\r\n\r\n6\r\n--XX--\r\n'
)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1 << 20])
def test_fields_of_a_form_are_read_however_it_is_cut(step: int) -> None:
    form = FormFields(b"XX", FIELDS)
    for at in range(0, len(FORM), step):
        form.feed(FORM[at : at + step])
        assert len(form._rest) < len(FORM) // 4 or step > 64  # files are not held
    assert form.fields == {"size": "64x64", "fps": "", "n": "2", "num_inference_steps": "6"}
    expected = Media(kind="image", count=2, width=64, height=64, steps=6)
    assert of_fields("/v1/images/edits", form.fields) == expected


def test_a_form_without_an_end_is_not_kept() -> None:
    form = FormFields(b"XX", FIELDS)
    form.feed(b"--XX\r\n" + b"a" * 100_000)
    assert (form.fields, form._rest) == ({}, b"")


def test_forms_are_known_by_their_content_type() -> None:
    assert form_of({b"content-type": b"multipart/form-data; boundary=XX"}, FIELDS) is not None
    assert form_of({b"content-type": b'Multipart/Form-Data; Boundary="a b"'}, FIELDS) is not None
    assert form_of({b"content-type": b"multipart/form-data"}, FIELDS) is None
    assert form_of({b"content-type": b"application/json"}, FIELDS) is None


def test_only_posts_ask_for_media() -> None:
    assert is_media("POST", "/v1/videos/sync")
    assert not is_media("GET", "/v1/videos")
    assert not is_media("POST", "/v1/chat/completions")
