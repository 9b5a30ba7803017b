"""Writes rows to CSV, JSON lines or Parquet, some thousand at a time."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

Kind = Literal["text", "integer", "number", "decimal", "time", "boolean"]
Value = str | int | float | bool | Decimal | datetime | None
Row = dict[str, Value]
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
        with _target(output, binary=form == "parquet") as file, WRITERS[form](file, fields) as put:
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
def _target(output: Path | None, *, binary: bool) -> Iterator[IO[Any]]:
    if output is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    beside = output.with_name(f".{output.name}.part")
    try:
        with beside.open("wb") if binary else beside.open("w", encoding="utf-8", newline="") as file:
            yield file
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)


Put = Callable[[list[Row]], None]


@contextmanager
def _csv(file: IO[str], fields: Sequence[Field]) -> Iterator[Put]:
    names = [field.name for field in fields]
    head = io.StringIO()
    csv.writer(head, lineterminator="\n").writerow(names)
    file.write(head.getvalue())
    writer = csv.writer(file, lineterminator="\n")
    yield lambda rows: writer.writerows([[_text(row[name]) for name in names] for row in rows])


def _text(value: Value) -> str:
    """null is nothing; times are in UTC; decimals have no exponent."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _time(value: datetime) -> str:
    value = value.astimezone(UTC)
    return value.strftime("%Y-%m-%dT%H:%M:%S") + (f".{value.microsecond:06}Z" if value.microsecond else "Z")


@contextmanager
def _jsonl(file: IO[str], fields: Sequence[Field]) -> Iterator[Put]:
    """Decimals and times are text, so that no digit is lost."""

    def line(row: Row) -> str:
        plain = {
            field.name: _text(value) if isinstance(value := row[field.name], Decimal | datetime) else value
            for field in fields
        }
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":")) + "\n"

    yield lambda rows: file.writelines(line(row) for row in rows)


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
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


WRITERS: dict[Format, Callable[[IO[Any], Sequence[Field]], Any]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
