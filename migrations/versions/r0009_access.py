"""Virtual keys, the hashes of their secrets, and limits.

Revision 0009, after 0008. Going down forgets them all.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

LIMITS = ("requests_per_minute", "tokens_per_minute", "parallel_requests", "uj_per_day", "uj_per_month")


def upgrade() -> None:
    op.create_table(
        "access_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("team", sa.Text()),
        sa.Column("user_id", sa.Text()),
        sa.Column("models", sa.Text()),
        sa.Column("any_tenant", sa.Boolean(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger()),
        sa.Column("revoked_us", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_access_keys"),
    )
    op.create_table(
        "access_secrets",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger()),
        sa.ForeignKeyConstraint(["key"], ["access_keys.id"], name="fk_access_secrets_key"),
        sa.PrimaryKeyConstraint("hash", name="pk_access_secrets"),
    )
    op.create_table(
        "access_limits",
        sa.Column("scope", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger()) for name in LIMITS),
        sa.PrimaryKeyConstraint("scope", name="pk_access_limits"),
    )
    version = op.create_table(
        "access_version",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_access_version"),
    )
    op.bulk_insert(version, [{"id": 1, "version": 0}])


def downgrade() -> None:
    for table in ("access_version", "access_limits", "access_secrets", "access_keys"):
        op.drop_table(table)
