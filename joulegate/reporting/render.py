"""A document as text, CSV, JSON or Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable

from joulegate.reporting.html import as_html
from joulegate.reporting.table import Cell, Column, Document, Table, for_people, is_number, plain, shown

NARROW = 24
"""Text that folds gets at least this before a column of figures does."""
BORDERS = 3
"""Characters that a column takes beside its text."""


def as_text(document: Document, width: int, *, name_hidden: bool = True) -> str:
    """For a terminal of `width` columns. Columns that do not fit are left out, and named if wanted."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, color_system=None, legacy_windows=False)
    console.print(document.title, markup=False)
    for name, value in document.facts:
        console.print(f"{name}: {value}", markup=False)
    for table in map(for_people, document.tables):
        console.print()
        widths = _fitting(table, width)
        console.print(_rich(table, widths))
        hidden = [c.head for place, c in enumerate(table.columns) if place not in widths]
        if hidden and name_hidden:
            console.print(f"No room for: {'; '.join(hidden)}.", markup=False)
    if document.notes:
        console.print()
    for note in document.notes:
        console.print(note, markup=False)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def _fitting(table: Table, width: int) -> dict[int, int]:
    """Widths of the columns that fit, by place; the less important are left out one after the other."""
    wanted = {place: _widest(table, place) for place in range(len(table.columns))}
    folding = [place for place in wanted if table.columns[place].folds]
    least = {place: min(need, NARROW) if place in folding else need for place, need in wanted.items()}

    def room() -> int:
        return width - sum(need + BORDERS for need in least.values()) - 1

    while room() < 0 and any(table.columns[place].rank for place in least):
        del least[max(least, key=lambda place: (table.columns[place].rank, place))]
    folding = [place for place in folding if place in least]
    while folding and room() < 0 and max(least[place] for place in folding) > 1:
        least[max(folding, key=lambda place: least[place])] -= 1
    while room() > 0 and (short := [place for place in folding if least[place] < wanted[place]]):
        least[min(short, key=lambda place: least[place])] += 1
    return least


def _widest(table: Table, place: int) -> int:
    column = table.columns[place]
    rows = [*table.rows, *([] if table.total is None else [table.total])]
    return max(
        *(cell_len(word) for word in column.head.split()),
        *(cell_len(shown(row[place], column)) for row in rows),
        1,
    )


def _rich(table: Table, widths: Mapping[int, int]) -> RichTable:
    made = RichTable(
        title=table.title, title_justify="left", box=SIMPLE_HEAD, show_footer=table.total is not None
    )
    for place, width in widths.items():
        column = table.columns[place]
        total = None if table.total is None else table.total[place]
        made.add_column(
            "\n".join(wrap(column.head, width)),
            footer=_literal("" if total is None else shown(total, column)),
            justify="right" if is_number(table, place) else "left",
            width=width,
            overflow="fold",
            vertical="top",
        )
    for row in table.rows:
        made.add_row(*(_literal(shown(row[place], table.columns[place])) for place in widths))
    return made


def _literal(text: str) -> str:
    return text.replace("[", r"\[")


def as_csv(document: Document) -> str:
    """The first table; exact figures."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    table = document.tables[0]
    writer.writerow([column.id for column in table.columns])
    writer.writerows([[plain(cell) for cell in row] for row in table.rows])
    return out.getvalue()


def as_json(document: Document) -> str:
    """All tables as lists of objects; numbers that are not whole are text, so that no digit is lost."""

    def rows(table: Table) -> list[dict[str, Any]]:
        return [dict(_fields(table.columns, row)) for row in table.rows]

    whole: dict[str, Any] = {"title": document.title, **dict(document.facts)}
    for table in document.tables:
        whole[table.key or table.title] = rows(table)
        if table.total is not None:
            whole[f"{table.key or table.title}_total"] = dict(_fields(table.columns, table.total))
    whole["notes"] = list(document.notes)
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _fields(columns: Sequence[Column], row: Sequence[Cell]) -> list[tuple[str, str | int | None]]:
    cells = [plain(cell) if isinstance(cell, Decimal) else cell for cell in row]
    return [(column.id, cell) for column, cell in zip(columns, cells, strict=True)]


def as_markdown(document: Document) -> str:
    lines = [f"# {_inline(document.title)}", ""]
    lines += [f"- {_inline(name)}: {_inline(value)}" for name, value in document.facts]
    for table in map(for_people, document.tables):
        sides = [":" if is_number(table, place) else "" for place in range(len(table.columns))]
        lines += ["", f"## {_inline(table.title)}", ""]
        lines.append(_row([column.head for column in table.columns]))
        lines.append("|" + "|".join(f"---{side}" for side in sides) + "|")
        for row in table.rows:
            lines.append(_row([shown(c, column) for c, column in zip(row, table.columns, strict=True)]))
        if table.total is not None:
            cells = [
                "" if c is None else shown(c, column)
                for c, column in zip(table.total, table.columns, strict=True)
            ]
            lines.append(_row([f"**{cell}**" if cell else "" for cell in cells]))
    if document.notes:
        lines += ["", *(f"{_inline(note)}  " for note in document.notes)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_inline(cell) for cell in cells) + " |"


def _inline(text: str) -> str:
    """Names come from clients: nothing in them may end a cell or a line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


FORMATS: dict[str, Callable[[Document], str]] = {
    "csv": as_csv,
    "json": as_json,
    "markdown": as_markdown,
    "html": as_html,
}
