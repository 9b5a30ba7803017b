"""Images and videos of a request, and the id of the job on its backend.

Revision 0010, after 0009. Going down forgets them; the sums by kind and size stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

WHOLE = ("media_count", "media_width", "media_height", "media_steps", "media_frames")


def upgrade() -> None:
    op.add_column("requests", sa.Column("job", sa.Text()))
    op.add_column("requests", sa.Column("media_kind", sa.Text()))
    for name in WHOLE:
        op.add_column("requests", sa.Column(name, sa.BigInteger()))
    op.add_column("requests", sa.Column("media_fps", sa.Double()))
    given = sa.text("job IS NOT NULL")
    op.create_index("ix_requests_job", "requests", ["job"], sqlite_where=given, postgresql_where=given)


def downgrade() -> None:
    op.drop_index("ix_requests_job", "requests")
    for name in ("media_fps", *reversed(WHOLE), "media_kind", "job"):
        op.drop_column("requests", name)
