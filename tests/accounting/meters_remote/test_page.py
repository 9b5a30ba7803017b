"""docs/remote-meters.md: every code that is said is there, and what is there is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from proxy.settings import Settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "remote-meters.md").read_text()
SOURCES = [
    path
    for stem in ("remote", "zeusd", "dcgm", "peer", "rapl", "host")
    for path in sorted((ROOT / "accounting" / "meters").glob(f"{stem}*.py"))
]
CODE = re.compile(r'"([A-Z]{2,}(?:_[A-Z]+)*)"')
ROW = re.compile(r"^\| `([A-Z_]+)` \|", re.MULTILINE)


def said() -> set[str]:
    text = "\n".join(path.read_text() for path in SOURCES)
    return {code for code in CODE.findall(text) if not code.startswith("DCGM_")} - {"GET", "UUID"}


def test_the_search_finds_codes() -> None:
    assert len(SOURCES) >= 8
    assert {"UNREACHABLE", "STALE", "NO_RAPL"} <= said()


def test_every_code_has_its_row_and_every_row_its_code() -> None:
    assert set(ROW.findall(PAGE)) == said()


@pytest.mark.parametrize(
    "words",
    [
        "cannot be reached",
        "has not answered within",
        "does not take our token, or wants one: see token_env and token_file",
        "our token does not allow reading GPUs",
        "gives an answer that makes no sense",
        "serves the same energy for",
        "the energy went back from",
        "answers too slowly to know what time it has there",
        "was started again",
        "does not show this GPU any more: look at its log, and at the GPU",
        "does not have this GPU; it has:",
        "give host.idle_w, to have an estimate instead",
        "host.source is estimate, but host.idle_w is not given",
    ],
)
def test_the_words_of_the_page_are_the_words_that_are_said(words: str) -> None:
    assert words in PAGE
    assert any(words in path.read_text() for path in SOURCES)


def test_the_examples_can_be_used() -> None:
    meters, host = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    settings = Settings.model_validate(yaml.safe_load(meters) | yaml.safe_load(host))
    assert [meter.source for meter in settings.meters] == ["nvml", "joulegate", "zeusd", "dcgm"]
