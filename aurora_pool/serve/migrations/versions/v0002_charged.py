"""What batches were charged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; batches that have not ended are charged at their end what they have used up before."""
    op.add_column("batches", sa.Column("charged", sa.BigInteger(), nullable=False, server_default="0"))
