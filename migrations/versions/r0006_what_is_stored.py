"""How many outputs of each journal were stored, until when and of when; what was deleted for its age.

Revision 0006, after 0005. Going down forgets both.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    outputs = sa.Column("outputs", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("journal_progress", outputs)
    op.add_column("journal_progress", sa.Column("needed_us", sa.BigInteger()))
    op.add_column("journal_progress", sa.Column("seen_us", sa.BigInteger()))
    op.create_table(
        "deleted",
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("before_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("what", name="pk_deleted"),
    )


def downgrade() -> None:
    op.drop_table("deleted")
    op.drop_column("journal_progress", "seen_us")
    op.drop_column("journal_progress", "needed_us")
    op.drop_column("journal_progress", "outputs")
