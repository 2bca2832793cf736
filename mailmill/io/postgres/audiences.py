"""Audiences in PostgreSQL and the lake: the planner's side of the ports in pipelines/target/ports.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, LiteralString

import polars as pl
import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from mailmill.io.lake import Lake, LakeFile
from mailmill.io.postgres import campaigns, copying, erasure, manifest, recipients
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.io.postgres.generation_rows import merge_rule
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest.ahead import prefetched
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.target.audiences import SUPPRESSION_SCHEMA, ledger_rows, named, numbered
from mailmill.pipelines.target.ports import Draft, Due, Frozen, Generation

SQL = statements("audiences")
_PIECE_ROWS = 50_000  # of COPY text made at a time


class _Overtaken(Exception):
    """Somebody was forgotten, or somebody of the audience suppressed, since it was taken; the transaction is undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresContacts:
    """Contacts from the lake, suppressions from PostgreSQL at the moment they are asked for."""

    database: Database
    lake: Lake

    def generation(self, tenant_id: int) -> Generation | None:
        with self.database.transaction() as conn:
            erasures = erasure.erasures(conn, tenant_id)  # first: what is erased between the two counts as erased later
            files = manifest.listed(conn, tenant_id=tenant_id, dataset="contacts", part="")
            merge = merge_rule(conn, tenant_id)
        if not files:
            return None
        as_of = max(datetime.fromisoformat(str(file.facts["as_of"])) for file in files)
        contacts = self.lake.scan([file.file for file in files], CONTACTS_SCHEMA)
        return Generation(as_of=as_of, contacts=contacts, merge=merge, erasures=erasures)

    def suppressions(self, tenant_id: int, campaign_id: int | None) -> pl.DataFrame:
        with self.database.transaction() as conn:
            return _suppressions(conn, {"tenant_id": tenant_id, "campaign_id": campaign_id})

    def chosen(self, campaign_id: int) -> pl.DataFrame:
        with self.database.transaction() as conn:
            return recipients.chosen(conn, campaign_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresCampaigns:
    """Campaigns in PostgreSQL, frozen audiences in the ledger and the lake."""

    database: Database
    lake: Lake

    @contextmanager
    def planning(self, campaign_id: int, *, by: str) -> Iterator[Draft | None]:
        """Take a due campaign into planning; the session's lock keeps other planners away until the block ends."""
        with driver_errors():
            conn = self.database.connect(autocommit=True)
        try:
            with driver_errors():
                draft = self._draft(conn, campaign_id, by)
            yield draft
        finally:
            with suppress(psycopg.Error):
                conn.close()

    def _draft(self, conn: psycopg.Connection, campaign_id: int, by: str) -> Draft | None:
        parameters = {"campaign_id": campaign_id}
        locked = conn.execute(campaigns.SQL["try_planner"], parameters).fetchone()
        if locked is None or not locked[0]:
            return None
        due = conn.execute(campaigns.SQL["is_due"], parameters).fetchone()
        if due is None:
            return None
        with conn.transaction():  # no step when a planning was left
            campaigns.move(conn, campaign_id, "plan", by=by, scheduled_at=due[0])
        with conn.cursor(row_factory=class_row(Draft)) as cursor:
            return cursor.execute(campaigns.SQL["draft"], {**parameters, "any_state": False}).fetchone()

    def freeze(self, frozen: Frozen, *, by: str) -> Literal["running", "stale", "gone"]:
        recipients = frozen.audience.recipients
        with self.database.transaction() as conn:
            row = conn.execute(SQL["reserve_ids"], {"n": recipients.height}).fetchone()
        assert row is not None
        frame = numbered(recipients, int(row[0]))
        with ThreadPoolExecutor(
            1, "lake"
        ) as aside:  # while the server is busy with the ledger; nobody sees the file yet
            file = aside.submit(self.lake.write, frame, tenant_id=frozen.draft.tenant_id, dataset="audiences")
            try:
                with self.database.transaction() as conn:
                    return _write(conn, frozen, frame, file, first_id=int(row[0]), by=by)
            except _Overtaken:
                self.lake.path(file.result().file).unlink(missing_ok=True)  # it may hold somebody who was forgotten
                return "stale"

    def fail(self, campaign_id: int, reason: str, *, by: str) -> None:
        with self.database.transaction() as conn:
            campaigns.move(conn, campaign_id, "fail", by=by, reason=reason)

    def due(self) -> list[Due]:
        with self.database.transaction() as conn:
            return campaigns.due(conn)

    def miss(self, due: Due, *, by: str) -> bool:
        ended = due.ends_at is not None and due.now >= due.ends_at
        reason = "its end has passed" if ended else f"later than the grace of {due.misfire_grace_s} s"
        with self.database.transaction() as conn:
            free = conn.execute(campaigns.SQL["no_planner"], {"campaign_id": due.campaign_id}).fetchone()
            if free is None or not free[0]:  # a planning that was begun in time may take long
                return False
            before = campaigns.move(conn, due.campaign_id, "miss", by=by, reason=reason, scheduled_at=due.scheduled_at)
            return before is not None

    def settle(self, *, by: str) -> list[str]:
        campaigns.sweep(self.database)
        with self.database.transaction() as conn:
            return campaigns.finish_settled(conn, by=by)


def _write(
    conn: psycopg.Connection, frozen: Frozen, frame: pl.DataFrame, file: Future[LakeFile], *, first_id: int, by: str
) -> Literal["running", "gone"]:
    """All of a frozen campaign, visible together when the caller commits.

    Raises: _Overtaken, and then the caller's transaction has to be undone.
    """
    draft, audience = frozen.draft, frozen.audience
    names = {"campaign_id": draft.campaign_id, "tenant_id": draft.tenant_id}
    if conn.execute(campaigns.SQL["lock_planning"], names).fetchone() is None:
        return "gone"
    conn.execute(erasure.SQL["hold_shared"], names)
    if erasure.erasures(conn, draft.tenant_id) != frozen.erasures:  # it may hold them, or name them in a merge value
        raise _Overtaken
    fill(conn, frame, tenant_id=draft.tenant_id, campaign_id=draft.campaign_id)
    conn.execute(SQL["fill_links"], {**names, "urls": list(frozen.links)})
    reasons, counts = list(audience.exclusions), list(audience.exclusions.values())
    conn.execute(SQL["fill_exclusions"], {**names, "reasons": reasons, "counts": counts})
    facts = {"as_of": frozen.as_of.isoformat(), "rows": frame.height, "exclusions": audience.exclusions}
    manifest.replace(
        conn, [file.result()], tenant_id=draft.tenant_id, dataset="audiences", part=draft.slug, facts=facts
    )
    conn.execute(
        campaigns.SQL["set_content"],
        {
            **names,
            "transport_id": draft.transport_id,
            "content": Jsonb(dict(frozen.content)),
            "as_of": frozen.as_of,
            "ends_at": draft.spec.get("ends"),
            "first_message_id": first_id,
            "planned": frame.height,
        },
    )
    campaigns.move(conn, draft.campaign_id, "run", by=by, reason=frozen.warning)
    return "running"


def fill(conn: psycopg.Connection, frame: pl.DataFrame, *, tenant_id: int, campaign_id: int) -> None:
    """Ledger and merge values of an audience, in batches of text that polars makes. In: AUDIENCE_SCHEMA.

    Raises: _Overtaken when somebody of it is suppressed by now.
    """
    names = {"campaign_id": campaign_id, "tenant_id": tenant_id}
    if named(frame, _suppressions(conn, names), merge_rule(conn, tenant_id)):
        raise _Overtaken
    _copy(conn, SQL["fill_ledger"], (ledger_rows(piece, **names) for piece in frame.iter_slices(_PIECE_ROWS)))
    fields = frame.select("message_id", pl.lit(tenant_id).alias("tenant_id"), "merge_values")
    _copy(conn, SQL["fill_fields"], fields.iter_slices(_PIECE_ROWS))


def _copy(conn: psycopg.Connection, statement: LiteralString, pieces: Iterator[pl.DataFrame]) -> None:
    """The text of the next piece is made while the server takes one."""
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for text in prefetched(piece.write_csv(include_header=False) for piece in pieces):
            copy.write(text)


def _suppressions(conn: psycopg.Connection, names: Mapping[str, int | None]) -> pl.DataFrame:
    return copying.read(conn, SQL["suppressions"], SUPPRESSION_SCHEMA, names)
