"""Tables as wide as there is room for: what does not fit is left out and named, no figure is ever cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Literal

from rich.table import Table

GAP = 2
"""Characters that a column takes beside its text."""


@dataclass(frozen=True, slots=True)
class Column:
    """`rank`: where there is no room, columns of a higher rank go first. 0 stays."""

    name: str
    rank: int = 0
    text: bool = False
    """Set to the left; figures are set to the right."""


def fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """Widths of the columns that fit, by place. Headings are stacked where that makes room."""
    cells = {place: max((len(row[place]) for row in rows), default=0) for place in range(len(columns))}
    widths = {
        place: max(cells[place], *(len(word) for word in column.name.split()))
        for place, column in enumerate(columns)
    }

    def room() -> int:
        return width - sum(need + GAP for need in widths.values())

    while room() < 0 and any(columns[place].rank for place in widths):
        del widths[max(widths, key=lambda place: columns[place].rank)]
    flat = {place: max(need, len(columns[place].name)) for place, need in widths.items()}
    return flat if sum(flat.values()) - sum(widths.values()) <= room() else widths


def table(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    colours: Sequence[str] | None = None,
    caption: str = "",
) -> Table:
    """A table of at most `width` characters, each row in its colour. Cells are plain text."""
    widths = fitting(columns, rows, width)
    hidden = [column.name for place, column in enumerate(columns) if place not in widths]
    said = [part for part in (caption, f"No room for: {', '.join(hidden)}." if hidden else "") if part]
    made = Table(title=title, title_justify="left", box=None, caption="\n".join(said), caption_justify="left")
    for place, size in widths.items():
        column = columns[place]
        side: Literal["left", "right"] = "left" if column.text else "right"
        heading = "\n".join(wrap(column.name, size))
        made.add_column(heading, width=size, justify=side, overflow="fold")
    for row, colour in zip(rows, colours or [""] * len(rows), strict=True):
        made.add_row(*(row[place].replace("[", r"\[") for place in widths), style=colour)
    return made
