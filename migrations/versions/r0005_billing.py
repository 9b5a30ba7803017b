"""Closed billing periods and what was billed in them.

Revision 0005, after 0004. Going down forgets what was billed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "billing_periods",
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("closed_us", sa.BigInteger(), nullable=False),
        sa.Column("terms", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("period", name="pk_billing_periods"),
    )
    op.create_table(
        "billed_charges",
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("corrects", sa.Text()),
        sa.Column("charge", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["period"], ["billing_periods.period"], name="fk_billed_charges_period"),
        sa.PrimaryKeyConstraint("period", "number", name="pk_billed_charges"),
    )
    op.create_index("ix_billed_charges_corrects", "billed_charges", ["corrects"])


def downgrade() -> None:
    op.drop_index("ix_billed_charges_corrects", "billed_charges")
    op.drop_table("billed_charges")
    op.drop_table("billing_periods")
