"""Alembic's environment: it is handed a connection by `mailmill.io.postgres.schema`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
