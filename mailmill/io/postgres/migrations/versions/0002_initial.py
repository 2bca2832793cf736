"""The first schema that is kept: those before it were of no release, and nothing leads from them to here."""

from mailmill.io.postgres.migrations.revision import run_sql

revision = "0002"
down_revision = None


def upgrade() -> None:
    run_sql("0002_initial.sql")
