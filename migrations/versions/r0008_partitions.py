"""On PostgreSQL, requests and books in partitions by day.

Revision 0008, after 0007. Going up moves no row: the tables that are there become the default partitions.
What takes time is checking the foreign keys again. Going down moves the rows of all days back into one table.
On SQLite nothing happens.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEYS = {
    "requests": "uid",
    "request_shares": "uid",
    "corrections": "uid",
    "correction_shares": "uid",
    "books": "t0_us",
}
OWNERS = {"request_shares": "requests", "corrections": "requests", "correction_shares": "corrections"}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    _drop_foreign_keys()
    for table, key in KEYS.items():
        primary, indexes = _indexes(table)
        op.rename_table(table, f"{table}_rest")
        for name in (f"pk_{table}", *indexes):
            op.execute(f"ALTER INDEX {name} RENAME TO {_other(name)}")
        op.execute(f"CREATE TABLE {table} (LIKE {table}_rest INCLUDING DEFAULTS) PARTITION BY RANGE ({key})")
        op.create_primary_key(f"pk_{table}", table, primary)
        for made_by in indexes.values():
            op.execute(made_by)
        op.execute(f"ALTER TABLE {table} ATTACH PARTITION {table}_rest DEFAULT")
    _make_foreign_keys()


def downgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    _drop_foreign_keys()
    for table in KEYS:
        _, indexes = _indexes(table)
        op.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_rest")
        op.execute(f"INSERT INTO {table}_rest SELECT * FROM {table}")
        op.drop_table(table)
        op.rename_table(f"{table}_rest", table)
        for name in (f"pk_{table}", *indexes):
            op.execute(f"ALTER INDEX {_other(name)} RENAME TO {name}")
    _make_foreign_keys()


def _indexes(table: str) -> tuple[list[str], dict[str, str]]:
    """The primary key's columns, and by name the statement that makes each other index."""
    connection = op.get_bind()
    primary = sa.inspect(connection).get_pk_constraint(table)["constrained_columns"]
    query = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename = :t"
    )
    found = connection.execute(sa.text(query), {"t": table}).all()
    return primary, {row.indexname: row.indexdef for row in found if row.indexname != f"pk_{table}"}


def _other(name: str) -> str:
    """The index of a default partition."""
    return f"rest_{name}"


def _drop_foreign_keys() -> None:
    for table in OWNERS:
        op.drop_constraint(f"fk_{table}_uid", table, type_="foreignkey")


def _make_foreign_keys() -> None:
    for table, owner in OWNERS.items():
        op.create_foreign_key(f"fk_{table}_uid", table, owner, ["uid"], ["uid"], ondelete="CASCADE")
