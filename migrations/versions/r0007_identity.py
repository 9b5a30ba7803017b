"""Who a request was for: project, user and id of the virtual key that it came with.

Revision 0007, after 0006. Going down forgets them; the sums by project, user and key stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NAMES = ("project", "user_id", "api_key")


def upgrade() -> None:
    for name in NAMES:
        op.add_column("requests", sa.Column(name, sa.Text()))
        given = sa.text(f"{name} IS NOT NULL")
        op.create_index(
            f"ix_requests_{name}_finished_us_uid",
            "requests",
            [name, "finished_us", "uid"],
            sqlite_where=given,
            postgresql_where=given,
        )


def downgrade() -> None:
    for name in reversed(NAMES):
        op.drop_index(f"ix_requests_{name}_finished_us_uid", "requests")
        op.drop_column("requests", name)
