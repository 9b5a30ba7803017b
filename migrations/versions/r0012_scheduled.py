"""When an engine began with a request's prompt, after it had queued.

Revision 0012, after 0011. Going down forgets it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = ("requests", "corrections")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("scheduled_us", sa.BigInteger()))


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_column(table, "scheduled_us")
