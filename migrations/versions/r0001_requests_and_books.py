"""Requests, their shares per GPU, the books and the progress of the journals.

Revision 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text()),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("http_status", sa.BigInteger()),
        sa.Column("error", sa.Text()),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("first_token_us", sa.BigInteger()),
        sa.Column("finished_us", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger()),
        sa.Column("cached_tokens", sa.BigInteger()),
        sa.Column("completion_tokens", sa.BigInteger()),
        sa.Column("tokens_from", sa.Text()),
        sa.Column("energy_uj", sa.BigInteger()),
        sa.Column("prefill_uj", sa.BigInteger()),
        sa.Column("decode_uj", sa.BigInteger()),
        sa.Column("dynamic_uj", sa.BigInteger()),
        sa.Column("uncertainty_uj", sa.BigInteger()),
        sa.Column("quality", sa.Double()),
        sa.Column("unmeasured_us", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_requests"),
    )
    op.create_index("ix_requests_request_id", "requests", ["request_id"])
    op.create_index("ix_requests_finished_us_uid", "requests", ["finished_us", "uid"])
    for column in ("tenant", "model", "backend"):
        op.create_index(f"ix_requests_{column}_finished_us_uid", "requests", [column, "finished_us", "uid"])

    op.create_table(
        "request_shares",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("gpu", sa.Text(), nullable=False),
        sa.Column("prefill_uj", sa.BigInteger(), nullable=False),
        sa.Column("decode_uj", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uid", "gpu", name="pk_request_shares"),
        sa.ForeignKeyConstraint(["uid"], ["requests.uid"], name="fk_request_shares_uid", ondelete="CASCADE"),
    )

    op.create_table(
        "books",
        sa.Column("gpu", sa.Text(), nullable=False),
        sa.Column("t0_us", sa.BigInteger(), nullable=False),
        sa.Column("t1_us", sa.BigInteger(), nullable=False),
        sa.Column("covered_us", sa.BigInteger(), nullable=False),
        sa.Column("measured_uj", sa.BigInteger()),
        sa.Column("requests_uj", sa.BigInteger(), nullable=False),
        sa.Column("idle_uj", sa.BigInteger(), nullable=False),
        sa.Column("unobserved_uj", sa.BigInteger(), nullable=False),
        sa.Column("unmeasured_uj", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("gpu", "t0_us", name="pk_books"),
    )
    op.create_index("ix_books_t0_us", "books", ["t0_us"])

    op.create_table(
        "journal_progress",
        sa.Column("journal", sa.Text(), nullable=False),
        sa.Column("segment", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("journal", name="pk_journal_progress"),
    )


def downgrade() -> None:
    op.drop_table("journal_progress")
    op.drop_table("books")
    op.drop_table("request_shares")
    op.drop_table("requests")
