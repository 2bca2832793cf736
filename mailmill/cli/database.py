"""Verbs about the database: migrate, down."""

from __future__ import annotations

from mailmill.cli.app import Json, answer_json, app, installation


@app.command()
def migrate(json: Json = False) -> None:
    """Bring the database's schema to this version of mailmill."""
    from mailmill.io.postgres import keys, schema  # imports SQLAlchemy, which quick verbs do without

    before, after = schema.migrate(installation().any_database)
    with installation().database.transaction() as connection:
        keys.ensure(connection)  # so that services may start before the first `apply`
    if json:
        answer_json({"before": before, "after": after})
    else:
        print(f"schema {before or 'empty'} -> {after}" if before != after else f"schema {after}, nothing to do")


@app.command()
def down() -> None:
    """Stop the embedded PostgreSQL."""
    server = installation().server
    if server is None:
        print("MAILMILL_DATABASE_URL names a server that others run; it stays as it is")
    else:
        print("PostgreSQL stopped" if server.stop() else f"no PostgreSQL of {server.home} was running")
