"""A report as data: titles, tables, notes. What it looks like is the business of the renderers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

Cell = str | int | Decimal | None


@dataclass(frozen=True, slots=True)
class Column:
    """`rank`: where there is no room, columns of a higher rank go first. 0 stays.

    `digits` are those behind the point that people see; programs get all.
    """

    name: str
    unit: str = ""
    rank: int = 0
    digits: int | None = None
    shift: int = 0
    """People see the figure divided by so many powers of ten, in `unit`; programs get it as it is."""
    key: str = ""
    """Its name for programs; made of `name` and `unit` when empty."""
    spare: Literal["", "unknown", "nothing"] = ""
    """People do not see it where all of it is unknown, or all of it unknown or 0."""
    folds: bool = False
    """Whether long text may go on in the next line. Else it is cut where there is no room."""

    @property
    def head(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def id(self) -> str:
        return self.key or "_".join(part for part in (self.name.replace(" ", "_"), self.unit) if part)


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    total: Sequence[Cell] | None = None
    key: str = ""
    """Its name for programs."""


@dataclass(frozen=True, slots=True)
class Document:
    """`facts` stand under the title, `notes` at the end."""

    title: str
    facts: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    notes: Sequence[str] = field(default=())


def shown(value: Cell, column: Column) -> str:
    """A cell for people: thousands apart, `-` where it is not known."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if column.shift:
        value = Decimal(value).scaleb(-column.shift)
    if isinstance(value, int) and column.digits is None:
        return f"{value:,}"
    return f"{value:,.{column.digits}f}" if column.digits is not None else f"{value:,f}"


def plain(value: Cell) -> str:
    """A cell for programs: exact, empty where it is not known."""
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def is_number(table: Table, place: int) -> bool:
    """Whether a column is set to the right: one that has a number in it."""
    rows = [*table.rows, *([] if table.total is None else [table.total])]
    return any(isinstance(row[place], int | Decimal) for row in rows)


def for_people(table: Table) -> Table:
    """The table without columns that would only hold dashes or noughts."""

    def says_something(place: int) -> bool:
        column = table.columns[place]
        if not column.spare:
            return True
        empty = (None,) if column.spare == "unknown" else (None, 0)
        return any(row[place] not in empty for row in table.rows)

    places = [place for place in range(len(table.columns)) if says_something(place)]
    return replace(
        table,
        columns=[table.columns[place] for place in places],
        rows=[[row[place] for place in places] for row in table.rows],
        total=None if table.total is None else [table.total[place] for place in places],
    )
