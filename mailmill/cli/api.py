"""Verbs about what others read: the stats API and its keys, the warehouse."""

from __future__ import annotations

from typing import Annotated

import typer

from mailmill.cli import logs
from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.cli.ports import refuse_taken
from mailmill.errors import Misconfigured
from mailmill.io.postgres import api_keys, read

key_app = typer.Typer(help="Keys of the stats API.", no_args_is_help=True)
app.add_typer(key_app, name="key")
warehouse_app = typer.Typer(help="DuckDB files for analysts.", no_args_is_help=True)
app.add_typer(warehouse_app, name="warehouse")


@key_app.command("create")
def create_key(
    tenant: Annotated[str | None, typer.Option("--tenant", help="The tenant whose statistics it opens.")] = None,
    operator: Annotated[str | None, typer.Option("--operator", help="Name of an operator: opens every tenant.")] = None,
    name: Annotated[str, typer.Option("--name", help="What it is for.")] = "",
    json: Json = False,
) -> None:
    """Make a key. It is shown once and stored nowhere."""
    if (tenant is None) == (operator is None):
        raise Misconfigured("whose key?", remedy="Give --tenant T or --operator NAME, one of them.")
    with installation().database.transaction() as conn:
        tenant_id = None
        if tenant is not None:
            found = read.tenant(conn, tenant)
            if found is None:
                raise Misconfigured(f"there is no tenant {tenant!r}", remedy="`mailmill apply` makes one.")
            tenant_id = found.id
        key = api_keys.create(conn, tenant_id=tenant_id, name=operator or name)
    if json:
        answer_json({"key": key})
    else:
        print(key)


@key_app.command("list")
def list_keys(json: Json = False) -> None:
    """Every key ever made, without its secret."""
    with installation().database.transaction() as conn:
        keys = api_keys.listed(conn)
    rows = [
        {"prefix": key.prefix, "name": key.name, "tenant": key.tenant or "(operator)", "created": key.created_at,
         "revoked": key.revoked_at}
        for key in keys
    ]  # fmt: skip
    answer_json(rows) if json else answer_table(rows, title="keys")


@key_app.command("revoke")
def revoke_key(prefix: Annotated[str, typer.Argument(help="The part between mm_ and the secret.")]) -> None:
    """End a key at once."""
    # who pastes the whole key means it too
    wanted = prefix.removeprefix("mm_").split("_", 1)[0]
    with installation().database.transaction() as conn:
        if not api_keys.revoke(conn, wanted):
            raise Misconfigured(f"there is no key {wanted!r}", remedy="`mailmill key list` shows all of them.")
    print(f"revoked {wanted}")


@app.command()
def api(
    port: Annotated[int | None, typer.Option("--port", help="Instead of MAILMILL_STATS_PORT.")] = None,
) -> None:
    """Serve the stats API until it is told to stop."""
    import uvicorn  # with FastAPI half a second, which the other verbs do without

    from mailmill.api.stats.app import create_app
    from mailmill.io.postgres.read_pool import ReadPool

    settings = installation().settings
    logs.start(settings.log_level, settings.log_format)
    chosen = settings.stats_port if port is None else port
    refuse_taken(settings.bind, chosen, setting="MAILMILL_STATS_PORT")
    # no access log: a key that somebody puts into a URL must not end in a file
    uvicorn.run(
        create_app(ReadPool(installation().database)),
        host=settings.bind,
        port=chosen,
        log_level=settings.log_level.lower(),
        access_log=False,
        ws="none",
    )


@warehouse_app.command("publish")
def publish(
    tenant: Annotated[str | None, typer.Option("--tenant", help="This tenant's file alone.")] = None,
    json: Json = False,
) -> None:
    """Build the DuckDB files anew and put them in the place of the old ones."""
    published = installation().publish_warehouse(tenant)
    if json:
        answer_json(published)
    else:
        rows = [{"file": one.path.name, "bytes": one.bytes, **one.rows} for one in published]
        answer_table(rows, title=str(installation().warehouse.folder))
