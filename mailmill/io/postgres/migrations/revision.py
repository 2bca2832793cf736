"""Runs the SQL file of an Alembic revision."""

from __future__ import annotations

from importlib import resources

from alembic import op


def run_sql(name: str) -> None:
    """Execute `versions/<name>` as it stands, in the migration's transaction."""
    text = resources.files("mailmill.io.postgres.migrations.versions").joinpath(name).read_text(encoding="utf-8")
    # no parameters, so neither SQLAlchemy nor psycopg looks for placeholders in the text
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})
