"""Writes rows to CSV, JSON lines or Parquet, some thousand at a time."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec

from joulegate.files import replacing

Kind = Literal["text", "integer", "number", "decimal", "time", "boolean"]
Value = str | int | float | bool | Decimal | datetime | None
Row = Sequence[Value]
"""Values in the order of the fields."""
Format = Literal["csv", "jsonl", "parquet"]
Done = Callable[[int], None]

AT_ONCE = 5_000
DECIMALS = (38, 18)
"""Digits, and digits behind the point, of decimals in Parquet; the most that 128 bits hold."""


class ExportError(Exception):
    """The file cannot be written. The message says why."""


class Field(NamedTuple):
    name: str
    kind: Kind


def write(rows: Iterable[Row], fields: Sequence[Field], form: Format, output: Path | None, done: Done) -> int:
    """Write all rows and return how many. Without `output` to standard output.

    A file is there only once it is whole. Raises ExportError.
    """
    if form == "parquet" and output is None:
        raise ExportError("Parquet needs a file: --output FILE")
    count = 0
    try:
        target = _standard_output() if output is None else replacing(output, binary=form == "parquet")
        with target as file, WRITERS[form](file, fields) as put:
            source = iter(rows)
            while batch := list(islice(source, AT_ONCE)):
                put(batch)
                count += len(batch)
                done(len(batch))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ExportError(f"{error.filename or output}: {error.strerror or error}") from error
    return count


@contextmanager
def _standard_output() -> Iterator[IO[Any]]:
    yield sys.stdout
    sys.stdout.flush()


Put = Callable[[list[Row]], None]


@contextmanager
def _csv(file: IO[str], fields: Sequence[Field]) -> Iterator[Put]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in fields])
    converted = [(place, TEXT[field.kind]) for place, field in enumerate(fields) if field.kind in TEXT]

    def plain(row: Row) -> list[Value]:
        """null is nothing, as the writer has it."""
        values = list(row)
        for place, convert in converted:
            value = values[place]
            if value is not None:
                values[place] = convert(value)
        return values

    yield lambda rows: writer.writerows(map(plain, rows))


def _time(value: Any) -> str:
    text: str = value.isoformat()
    return text.removesuffix("+00:00") + "Z"


TEXT: dict[Kind, Callable[[Any], str]] = {
    "time": _time,
    "boolean": lambda value: "true" if value else "false",
    "decimal": lambda value: f"{value:f}",
}
"""What the CSV writer would write otherwise: times are in UTC, decimals have no exponent."""


@contextmanager
def _jsonl(file: IO[str], fields: Sequence[Field]) -> Iterator[Put]:
    """Decimals and times are text, so that no digit is lost."""
    names = [field.name for field in fields]
    exact = [(place, TEXT["decimal"]) for place, field in enumerate(fields) if field.kind == "decimal"]

    def line(row: Row) -> str:
        values = dict(zip(names, row, strict=True))
        for place, convert in exact:
            value = row[place]
            values[names[place]] = None if value is None else convert(value)
        return msgspec.json.encode(values).decode() + "\n"

    yield lambda rows: file.writelines(map(line, rows))


@contextmanager
def _parquet(file: IO[bytes], fields: Sequence[Field]) -> Iterator[Put]:
    try:
        import pyarrow as pa  # needed for nothing else, and large
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ExportError("Parquet needs the extra packages of joulegate[export]") from error
    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "decimal": pa.decimal128(*DECIMALS),
        "time": pa.timestamp("us", tz="UTC"),
        "boolean": pa.bool_(),
    }
    schema = pa.schema([(field.name, types[field.kind]) for field in fields])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def put(rows: list[Row]) -> None:
            columns = zip(*rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield put


WRITERS: dict[Format, Callable[[IO[Any], Sequence[Field]], Any]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
