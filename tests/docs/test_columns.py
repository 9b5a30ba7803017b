"""Every column that a file can have is in docs/export.md, in the file's order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from joulegate.exporting.rows import BOOK_FIELDS, REQUEST_FIELDS
from joulegate.reporting.usage import columns_of

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


@pytest.mark.parametrize(
    ("section", "columns"),
    [
        ("Requests", [field.name for field in REQUEST_FIELDS]),
        ("Books", [field.name for field in BOOK_FIELDS]),
        ("Reports", [column.id for column in columns_of([], None, by_day=False)]),
    ],
)
def test_the_page_has_the_columns_of_the_file(section: str, columns: list[str]) -> None:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    firsts = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert re.findall("`([a-z_0-9]+)`", " ".join(firsts)) == columns
