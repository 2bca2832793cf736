"""What stands in a warehouse file: tables of dimensions and roll-ups, views over the lake's files.

DuckDB's SQL is put together here from these constants and from literals that `literal` quotes, because a view can take
no parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

Columns = Mapping[str, str]  # name -> DuckDB's type

# filled from the statements table_<name> of sql/warehouse.sql, in this order of columns
TABLES: Mapping[str, Columns] = {
    "tenants": {"tenant": "VARCHAR", "tenant_id": "INTEGER", "name": "VARCHAR", "time_zone": "VARCHAR"},
    "sources": {
        "tenant": "VARCHAR", "source": "VARCHAR", "kind": "VARCHAR", "priority": "SMALLINT", "batches": "BIGINT",
        "rows_read": "BIGINT", "rows_accepted": "BIGINT", "rows_rejected": "BIGINT", "duplicates_within": "BIGINT",
        "duplicates_across": "BIGINT", "contacts_new": "BIGINT", "contacts_changed": "BIGINT",
        "loaded_at": "TIMESTAMPTZ",
    },
    "batches": {
        "tenant": "VARCHAR", "batch_id": "BIGINT", "source": "VARCHAR", "origin": "VARCHAR", "state": "VARCHAR",
        "seen_at": "TIMESTAMPTZ", "rows_read": "BIGINT", "rows_accepted": "BIGINT", "rows_rejected": "BIGINT",
        "duplicates_within": "BIGINT", "duplicates_across": "BIGINT", "contacts_new": "BIGINT",
        "contacts_changed": "BIGINT", "loaded_at": "TIMESTAMPTZ",
    },
    "rejects": {
        "tenant": "VARCHAR", "batch_id": "BIGINT", "source": "VARCHAR", "reason": "VARCHAR", "rows": "BIGINT",
    },
    "segments": {
        "tenant": "VARCHAR", "segment": "VARCHAR", "name": "VARCHAR", "contacts": "BIGINT", "as_of": "TIMESTAMPTZ",
    },
    "campaigns": {
        "tenant": "VARCHAR", "campaign_id": "INTEGER", "campaign": "VARCHAR", "name": "VARCHAR", "state": "VARCHAR",
        "segment": "VARCHAR", "template": "VARCHAR", "identity": "VARCHAR", "transport": "VARCHAR",
        "planned": "BIGINT", "scheduled_at": "TIMESTAMPTZ", "started_at": "TIMESTAMPTZ",
        "finished_at": "TIMESTAMPTZ", "as_of": "TIMESTAMPTZ",
    },
    "exclusions": {"tenant": "VARCHAR", "campaign": "VARCHAR", "reason": "VARCHAR", "contacts": "BIGINT"},
    "links": {
        "tenant": "VARCHAR", "campaign": "VARCHAR", "ordinal": "SMALLINT", "url": "VARCHAR", "messages": "BIGINT",
        "events": "BIGINT",
    },
    "hourly_counters": {
        "tenant": "VARCHAR", "campaign": "VARCHAR", "kind": "VARCHAR", "hour": "TIMESTAMPTZ", "messages": "BIGINT",
        "events": "BIGINT",
    },
    "daily_counters": {
        "tenant": "VARCHAR", "campaign": "VARCHAR", "kind": "VARCHAR", "day": "DATE", "messages": "BIGINT",
        "events": "BIGINT",
    },
    "domain_counters": {
        "tenant": "VARCHAR", "domain": "VARCHAR", "kind": "VARCHAR", "messages": "BIGINT", "events": "BIGINT",
    },
}  # fmt: skip

_FACTS = (
    "accepted", "failed", "delivered", "bounced_soft", "bounced_hard", "complained", "opened", "clicked",
    "unsubscribed", "replied", "forwarded", "machine_opened", "machine_clicked",
)  # fmt: skip
_AT = pl.Datetime("us", "UTC")
# dataset `messages`: the ledger for analysts, in the order of the statement `ledger`; times of facts in seconds there
MESSAGES_SCHEMA = pl.Schema(
    {
        "message_id": pl.Int64(), "contact_id": pl.Int64(), "campaign_id": pl.Int32(), "domain": pl.String(),
        "state": pl.String(), "outcome": pl.String(), "attempts": pl.Int16(), "transport": pl.String(),
        "code": pl.Int16(), "reason": pl.String(), "done_at": _AT, **{f"{fact}_at": _AT for fact in _FACTS},
    }
)  # fmt: skip
MESSAGES_VERSION = "1"  # raise it when the schema changes: every campaign is then exported anew

# view -> columns taken from the files: name in the view -> (expression over the file, type)
VIEWS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "contacts": {
        name: (name, kind)
        for name, kind in {
            "contact_id": "BIGINT", "match_key": "VARCHAR", "email": "VARCHAR", "phone": "VARCHAR", "name": "VARCHAR",
            "language": "VARCHAR", "category": "VARCHAR", "country": "VARCHAR", "time_zone": "VARCHAR",
            "tags": "VARCHAR[]", "fields": "VARCHAR", "sources": "VARCHAR[]", "verdict": "VARCHAR",
            "verdict_reason": "VARCHAR", "status": "VARCHAR", "first_seen": "TIMESTAMPTZ",
            "last_seen": "TIMESTAMPTZ", "created_at": "TIMESTAMPTZ", "last_accepted": "TIMESTAMPTZ",
            "last_delivered": "TIMESTAMPTZ", "last_opened": "TIMESTAMPTZ", "last_clicked": "TIMESTAMPTZ",
            "last_bounced": "TIMESTAMPTZ", "domain": "VARCHAR", "provider": "VARCHAR", "score": "SMALLINT",
            "suggestion": "VARCHAR", "phone_code": "VARCHAR", "consent": "VARCHAR", "aliases": "VARCHAR[]",
        }.items()
    },
    "segment_members": {"contact_id": ("contact_id", "BIGINT")},
    "messages": {
        name: (name, {pl.Int64(): "BIGINT", pl.Int32(): "INTEGER", pl.Int16(): "SMALLINT", _AT: "TIMESTAMPTZ"}.get(
            kind, "VARCHAR"))
        for name, kind in MESSAGES_SCHEMA.items()
    },
    "events": {
        "event_id": ("event_id", "VARCHAR"), "campaign_id": ("campaign", "INTEGER"),
        "message_id": ("message", "BIGINT"), "kind": ("kind", "VARCHAR"), "happened_at": ('"at"', "TIMESTAMPTZ"),
        "link": ("link", "INTEGER"),
        "user_agent": ("user_agent", "VARCHAR"), "ip": ("ip", "VARCHAR"), "code": ("code", "INTEGER"),
        "reason": ("reason", "VARCHAR"), "attempt": ("attempt", "INTEGER"), "transport": ("transport", "VARCHAR"),
    },
}  # fmt: skip
# view -> (dataset of the lake, what its parts are called in the view)
DATASETS: Mapping[str, tuple[str, str | None]] = {
    "contacts": ("contacts", None),
    "segment_members": ("segments", "segment"),
    "messages": ("messages", "campaign"),
    "events": ("events", None),
}


def literal(text: str) -> str:
    """A text as DuckDB reads it back, whatever is in it.

    Raises: ValueError for a NUL, which DuckDB's parser would take for the end.
    """
    if "\0" in text:
        raise ValueError("a NUL cannot stand in SQL")
    return "'" + text.replace("'", "''") + "'"


def path_literal(path: Path) -> str:
    """A path for read_parquet, in which `*`, `?` and `[` mean themselves and no pattern."""
    escaped = "".join(f"[{character}]" if character in "*?[" else character for character in str(path))
    return literal(escaped)


def create_table(name: str) -> str:
    columns = ", ".join(f"{column} {kind}" for column, kind in TABLES[name].items())
    return f"CREATE TABLE {name} ({columns})"


def fill_table(name: str, csv: Path) -> str:
    """Reads what PostgreSQL wrote as CSV, in which a null is empty and an empty text is quoted."""
    return (
        f"COPY {name} FROM {literal(str(csv))} (FORMAT csv, HEADER false, AUTO_DETECT false, DELIMITER ',', "
        "QUOTE '\"', ESCAPE '\"', NULLSTR '', ALLOW_QUOTED_NULLS false, PARALLEL false)"
    )


def create_view(name: str, parts: Iterable[tuple[str, str, Sequence[Path]]]) -> str:
    """A view over Parquet files. In: (tenant, part, files) in any number; none gives a view without rows."""
    _, part_column = DATASETS[name]
    columns = VIEWS[name]
    selects = []
    for tenant, part, files in parts:
        constants = [f"{literal(tenant)} AS tenant"] + ([f"{literal(part)} AS {part_column}"] if part_column else [])
        taken = [f"CAST({expression} AS {kind}) AS {column}" for column, (expression, kind) in columns.items()]
        listed = ", ".join(path_literal(path) for path in files)
        source = f"read_parquet([{listed}], union_by_name = true)"
        selects.append(f"SELECT {', '.join(constants + taken)} FROM {source}")  # noqa: S608
    if not selects:
        nothing = ["NULL::VARCHAR AS tenant"] + ([f"NULL::VARCHAR AS {part_column}"] if part_column else [])
        nothing += [f"NULL::{kind} AS {column}" for column, (_, kind) in columns.items()]
        selects = [f"SELECT {', '.join(nothing)} WHERE false"]
    rows = " UNION ALL ".join(selects)
    if name == "events":  # a record that was written twice is one event
        once = f"({rows}) QUALIFY row_number() OVER (PARTITION BY tenant, event_id ORDER BY happened_at) = 1"
        rows = f"SELECT e.*, c.campaign FROM (SELECT * FROM {once}) e LEFT JOIN campaigns c USING (tenant, campaign_id)"  # noqa: S608
    return f"CREATE VIEW {name} AS {rows}"
