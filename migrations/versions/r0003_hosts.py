"""A request's part of its host's energy, how that was read, and the time of which it is not known.

Revision 0003, after 0002. Going down loses these figures of the requests; the hosts' books stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("host_uj", sa.BigInteger()))
    op.add_column("requests", sa.Column("host_method", sa.Text()))
    op.add_column("requests", sa.Column("host_unmeasured_us", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("requests", "host_unmeasured_us")
    op.drop_column("requests", "host_method")
    op.drop_column("requests", "host_uj")
