"""Corrections of requests, and their shares per GPU.

Revision 0002, after 0001. Going down loses which requests were corrected, and by how much; their figures stay
as they are.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "corrections",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("corrected_us", sa.BigInteger(), nullable=False),
        sa.Column("prefill_uj", sa.BigInteger(), nullable=False),
        sa.Column("decode_uj", sa.BigInteger(), nullable=False),
        sa.Column("dynamic_uj", sa.BigInteger()),
        sa.Column("uncertainty_uj", sa.BigInteger()),
        sa.Column("first_token_us", sa.BigInteger()),
        sa.PrimaryKeyConstraint("uid", name="pk_corrections"),
        sa.ForeignKeyConstraint(["uid"], ["requests.uid"], name="fk_corrections_uid", ondelete="CASCADE"),
    )
    op.create_table(
        "correction_shares",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("gpu", sa.Text(), nullable=False),
        sa.Column("prefill_uj", sa.BigInteger(), nullable=False),
        sa.Column("decode_uj", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uid", "gpu", name="pk_correction_shares"),
        sa.ForeignKeyConstraint(
            ["uid"], ["corrections.uid"], name="fk_correction_shares_uid", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    op.drop_table("correction_shares")
    op.drop_table("corrections")
