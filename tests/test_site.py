"""The documents as a site: built strictly, every page within reach, nothing loaded from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.openapi_doc import document, kind, page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = "reference.md"
"""Made when the site is built."""


NAV: list[Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


def pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(part)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return directory


def test_every_page_can_be_reached_from_the_navigation() -> None:
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert len(written) > 30
    listed = list(pages_of(NAV))
    assert sorted(listed) == sorted(written | {MADE})


def test_it_is_built_without_a_warning_and_a_page_for_each(site: Path) -> None:
    for name in pages_of(NAV):
        html = site / name.replace("README.md", "index.md").replace(".md", ".html")
        assert "<h1" in html.read_text(), name


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    loading = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
    assert loading.search('<link rel="stylesheet" href="https://elsewhere/a.css">')
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 30
    for path in files:
        text = path.read_text()
        assert loading.findall(text) == [], path
        assert re.findall(r"url\(\s*[\"']?(?:https?:)?//", text) == [], path


def test_the_reference_has_every_route_parameter_and_field() -> None:
    openapi = document()
    text = page(openapi)
    for path, ways in openapi["paths"].items():
        for way, told in ways.items():
            assert f"### `{way.upper()} {path}`" in text
            assert {
                one["name"] for one in told.get("parameters", ()) if f"| `{one['name']}` |" not in text
            } == set()
    for name, schema in openapi["components"]["schemas"].items():
        assert f"### {name}\n" in text
        assert {field for field in schema.get("properties", ()) if f"| `{field}` |" not in text} == set()


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"$ref": "#/components/schemas/BooksView"}, "[BooksView](#booksview)"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number or null"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, "list of `a`, `b`"),
        ({"const": "list"}, "`list`"),
        ({}, "anything"),
    ],
)
def test_types_are_written_as_people_read_them(schema: dict[str, Any], text: str) -> None:
    assert kind(schema) == text
