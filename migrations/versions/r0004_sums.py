"""Sums of requests and books by hour and day, computed from the rows that are there.

Revision 0004, after 0003. Going up reads `requests` and `books` once; going down drops the sums, which rows
that were deleted for their age have nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

HOUR_US = 3_600_000_000
WIDTHS_US = (HOUR_US, 24 * HOUR_US)
DIMENSIONS = ("backend", "model", "route", "tenant", "status", "simulated")
FIGURES = (
    *("requests", "prompt_tokens", "with_prompt", "cached_tokens", "with_cached"),
    *("completion_tokens", "with_completion", "energy_uj", "prefill_uj", "decode_uj", "with_energy"),
    *("dynamic_uj", "with_dynamic", "host_uj", "with_host", "unmeasured_us", "with_unmeasured"),
)
BOOK_FIGURES = (
    *("t0_us", "t1_us", "length_us", "covered_us", "measured_uj", "with_measured", "requests_uj"),
    *("idle_uj", "unobserved_uj", "unmeasured_uj", "intervals", "unbalanced"),
)
AT_ONCE = 1_000
"""Rows inserted together."""


def upgrade() -> None:
    keys = op.create_table(
        "usage_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text()),
        sa.Column("project", sa.Text()),
        sa.Column("user_id", sa.Text()),
        sa.Column("api_key", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("media_kind", sa.Text()),
        sa.Column("media_size", sa.Text()),
        sa.PrimaryKeyConstraint("key", name="pk_usage_keys"),
    )
    usage = op.create_table(
        "usage_sums",
        sa.Column("width_us", sa.BigInteger(), nullable=False),
        sa.Column("bucket_us", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in FIGURES),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("images", "videos", "video_us")),
        sa.PrimaryKeyConstraint("width_us", "bucket_us", "key", name="pk_usage_sums"),
        sa.ForeignKeyConstraint(["key"], ["usage_keys.key"], name="fk_usage_sums_key"),
    )
    books = op.create_table(
        "book_sums",
        sa.Column("width_us", sa.BigInteger(), nullable=False),
        sa.Column("bucket_us", sa.BigInteger(), nullable=False),
        sa.Column("gpu", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in BOOK_FIGURES),
        sa.PrimaryKeyConstraint("width_us", "bucket_us", "gpu", name="pk_book_sums"),
    )
    connection = op.get_bind()
    known: set[str] = set()
    for width_us in WIDTHS_US:
        rows: list[dict[str, Any]] = []
        for row in _usage(connection, width_us):
            dimensions = {name: row[name] for name in DIMENSIONS}
            key = _key(dimensions)
            if key not in known:
                known.add(key)
                connection.execute(keys.insert(), {"key": key, **dimensions})
            figures = {name: int(row[name] or 0) for name in FIGURES}
            media = {"images": 0, "videos": 0, "video_us": 0}
            rows.append({"width_us": width_us, "bucket_us": row["bucket_us"], "key": key, **figures, **media})
        _insert(connection, usage, rows)
        sums = [{**row, "width_us": width_us} for row in _books(connection, width_us)]
        _insert(connection, books, sums)


def downgrade() -> None:
    op.drop_table("book_sums")
    op.drop_table("usage_sums")
    op.drop_table("usage_keys")


def _key(dimensions: dict[str, Any]) -> str:
    """As the writer made it when this revision was new."""
    known = {name: value for name, value in dimensions.items() if value is not None}
    return blake2b(json.dumps(known, sort_keys=True).encode(), digest_size=16).hexdigest()


def _usage(connection: sa.Connection, width_us: int) -> Iterator[Any]:
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "energy_uj", "dynamic_uj", "host_uj")
    r = sa.table(
        "requests",
        *(sa.column(name) for name in DIMENSIONS if name != "simulated"),
        sa.column("simulated", sa.Boolean()),
        *(sa.column(name, sa.BigInteger()) for name in (*names, "prefill_uj", "decode_uj", "finished_us")),
        sa.column("unmeasured_us", sa.BigInteger()),
    )
    counts = ("with_prompt", "with_cached", "with_completion", "with_energy", "with_dynamic", "with_host")
    bucket = _bucket(r.c.finished_us, width_us)
    dimensions = [r.c[name] for name in DIMENSIONS]
    query = sa.select(
        bucket.label("bucket_us"),
        *dimensions,
        sa.func.count().label("requests"),
        *(sa.func.sum(r.c[name]).label(name) for name in (*names, "prefill_uj", "decode_uj")),
        *(sa.func.count(r.c[name]).label(count) for name, count in zip(names, counts, strict=True)),
        sa.func.sum(r.c.unmeasured_us).label("unmeasured_us"),
        sa.func.sum(sa.case((r.c.unmeasured_us != 0, 1), else_=0)).label("with_unmeasured"),
    ).group_by(bucket, *dimensions)
    yield from connection.execute(query).mappings().all()


def _books(connection: sa.Connection, width_us: int) -> Iterator[dict[str, Any]]:
    parts = ("requests_uj", "idle_uj", "unobserved_uj", "unmeasured_uj")
    numbers = ("t0_us", "t1_us", "covered_us", "measured_uj", *parts)
    b = sa.table("books", sa.column("gpu"), *(sa.column(name, sa.BigInteger()) for name in numbers))
    bucket = _bucket(b.c.t0_us, width_us)
    booked = b.c.requests_uj + b.c.idle_uj + b.c.unobserved_uj + b.c.unmeasured_uj
    balanced = sa.func.coalesce(b.c.measured_uj, 0) == booked
    query = sa.select(
        bucket.label("bucket_us"),
        b.c.gpu,
        sa.func.min(b.c.t0_us).label("t0_us"),
        sa.func.max(b.c.t1_us).label("t1_us"),
        sa.func.sum(b.c.t1_us - b.c.t0_us).label("length_us"),
        *(sa.func.sum(b.c[name]).label(name) for name in ("covered_us", *parts)),
        sa.func.coalesce(sa.func.sum(b.c.measured_uj), 0).label("measured_uj"),
        sa.func.count(b.c.measured_uj).label("with_measured"),
        sa.func.count().label("intervals"),
        sa.func.sum(sa.case((balanced, 0), else_=1)).label("unbalanced"),
    ).group_by(bucket, b.c.gpu)
    for row in connection.execute(query).mappings():
        # PostgreSQL sums 64-bit integers into decimals.
        yield {name: value if name == "gpu" else int(value) for name, value in row.items()}


def _bucket(column: sa.ColumnElement[int], width_us: int) -> sa.ColumnElement[int]:
    # PostgreSQL must see that SELECT and GROUP BY say the same.
    return column - column % sa.literal(width_us, literal_execute=True)


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), AT_ONCE):
        connection.execute(table.insert(), rows[start : start + AT_ONCE])
