"""Facts by backend and minute, for a diagnosis.

Revision 0011, after 0010. Going down forgets them: they cannot be made again once the journal is gone.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TIMES = ("settled_us", "busy_us", "request_us", "arrived", "arriving_us")
ENERGIES = ("requests_uj", "idle_uj", "unobserved_uj")
MORE_COUNTS = ("retries", "retried_uj", "learnt_us", "learnt_uj")


def upgrade() -> None:
    op.create_table(
        "backend_facts",
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("t0_us", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("gpus", sa.Text(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in (*TIMES, *ENERGIES)),
        sa.Column("peak_w", sa.Double(), nullable=False),
        sa.Column("static_w", sa.Double()),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in MORE_COUNTS),
        sa.Column("tokens", sa.Double(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("work", "prices", "times")),
        *(sa.Column(name, sa.Double()) for name in ("price_error", "time_error")),
        sa.Column("looks", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Double()) for name in ("running", "waiting")),
        sa.Column("most_running", sa.BigInteger()),
        sa.Column("looks_waiting", sa.BigInteger(), nullable=False),
        sa.Column("seats", sa.BigInteger()),
        *(sa.Column(name, sa.Double()) for name in ("kv_used", "kv_most")),
        sa.Column("preemptions", sa.BigInteger()),
        sa.Column("gpu_looks", sa.BigInteger(), nullable=False),
        *(
            sa.Column(name, sa.Double())
            for name in ("limit_w", "default_limit_w", "sm_clock_mhz", "capped", "throttled")
        ),
        sa.PrimaryKeyConstraint("backend", "t0_us", name="pk_backend_facts"),
    )
    op.create_index("ix_backend_facts_t0_us", "backend_facts", ["t0_us"])


def downgrade() -> None:
    op.drop_index("ix_backend_facts_t0_us", "backend_facts")
    op.drop_table("backend_facts")
