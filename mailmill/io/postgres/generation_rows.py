"""What PostgreSQL holds of a tenant's contacts, bucket by bucket, as a generation shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import polars as pl
import psycopg
from psycopg.types.json import Jsonb

from mailmill.io.postgres import domains
from mailmill.io.postgres.copying import read
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import generations, persons
from mailmill.pipelines.ingest.generations import ACTIVE, BUCKET_BITS, GRAVEST
from mailmill.pipelines.ingest.persons import PERSONS_SCHEMA, SAID_SCHEMA

SQL = statements("generations")
_SEPARATOR = "\x1f"
_NUMBER, _TEXT = pl.Int64(), pl.String()
_HELD = ("contact_id", "match_key", "email", "phone", "name", "language", "category", "country", "time_zone", "tags",
         "fields", "verdict", "verdict_reason", "created_at")  # fmt: skip
_REACTIONS = ("last_accepted", "last_delivered", "last_opened", "last_clicked", "last_bounced")
# the columns of each statement; times are epoch microseconds
_READ: Mapping[str, pl.Schema] = {
    "contacts": pl.Schema({name: _NUMBER if name in ("contact_id", "created_at") else _TEXT for name in _HELD}),
    "sightings": pl.Schema(dict.fromkeys(("contact_id", "source_id", "first_seen", "last_seen"), _NUMBER)),
    "engagement": pl.Schema(dict.fromkeys(("contact_id", *_REACTIONS), _NUMBER)),
    "shown": pl.Schema({"contact_id": _NUMBER, "status": _TEXT}),
    "consents": pl.Schema({"contact_id": _NUMBER, "consent": _TEXT}),
    "keys": pl.Schema({"contact_id": _NUMBER, "match_key": _TEXT, "phone": _TEXT}),
}


def merge_rule(conn: psycopg.Connection, tenant_id: int) -> MergeSpec:
    """What a tenant holds for one person."""
    row = conn.execute(SQL["merge_rule"], {"tenant_id": tenant_id}).fetchone()
    return MergeSpec.model_validate(row[0] if row else {})


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One tenant's contacts in one snapshot: all of it is read in the caller's transaction (REPEATABLE READ)."""

    conn: psycopg.Connection
    tenant_id: int
    slugs: Mapping[int, str] = field(init=False)  # of the tenant's sources
    domains: pl.DataFrame = field(init=False)  # what DNS said: DOMAINS_SCHEMA

    def __post_init__(self) -> None:
        sources = self.conn.execute(SQL["sources"], {"tenant_id": self.tenant_id}).fetchall()
        object.__setattr__(self, "slugs", dict(sources))
        object.__setattr__(self, "domains", domains.table(self.conn))

    @cached_property
    def rule(self) -> MergeSpec:
        return merge_rule(self.conn, self.tenant_id)

    def fingerprints(self, now: datetime) -> dict[int, str]:
        """Bucket -> what it is made of, for each bucket with contacts; first thing to be asked."""
        facts = {"tenant_id": self.tenant_id, "now": now, "gravest": list(GRAVEST), "bits": BUCKET_BITS}
        row = self.conn.execute(SQL["origin"]).fetchone()
        self.conn.execute(SQL["stage"])
        self.conn.execute(SQL["fill_shown"], facts)
        if (rule := self.rule).is_on:
            terms = {"rule": Jsonb(rule.model_dump(mode="json")), "strips": rule.strips, "phone": rule.phone}
            self.conn.execute(SQL["stage_named"])
            self.conn.execute(SQL["fill_named"], {**facts, **terms})
            self.conn.execute("ANALYZE named")
            self.conn.execute(SQL["fill_shown_by_rule"], {**facts, **terms})
        self.conn.execute(SQL["fill_withdrawn"], facts)
        self.conn.execute("ANALYZE shown")
        found = self.conn.execute(SQL["fingerprints"], facts).fetchall()
        return {bucket: f"{row and row[0]} {rest}" for bucket, rest in found}

    def keys(self, bucket: int) -> pl.DataFrame:
        """What a tenant's rule may hold for one person: contact_id, match_key, phone."""
        return self._read("keys", bucket, [])

    def bucket(self, bucket: int, together: pl.DataFrame) -> pl.DataFrame:
        """One file of the generation. In: PERSONS_SCHEMA of the tenant, or of this bucket. Out: CONTACTS_SCHEMA."""
        at, to = pl.col("contact_id") // (1 << BUCKET_BITS), pl.col("person_id") // (1 << BUCKET_BITS)
        mine = together.filter(to == bucket)
        others = mine.filter(at != bucket)["contact_id"].to_list()
        elsewhere = together.filter((at == bucket) & (to != bucket)).select("contact_id")
        rows, known = self._held(bucket, others).join(elsewhere, on="contact_id", how="anti"), self.domains
        if mine.height:
            values = {"tenant_id": self.tenant_id, "members": mine["contact_id"].to_list()}
            said = read(self.conn, SQL["said"], SAID_SCHEMA, values)
            known = generations.of_these(rows, known)
            rows = persons.merged(rows, said, mine.select(PERSONS_SCHEMA.names()), self.rule, known)
        return generations.completed(rows, known)

    def _read(self, what: str, bucket: int, others: list[int]) -> pl.DataFrame:
        first = bucket << BUCKET_BITS
        values = {"first": first, "last": first + (1 << BUCKET_BITS) - 1, "others": others}
        return read(self.conn, SQL[what], _READ[what], {"tenant_id": self.tenant_id, **values})

    def _held(self, bucket: int, others: list[int]) -> pl.DataFrame:
        """What is held of these contacts, joined. Out: CONTACTS_SCHEMA but for what is derived."""
        seen = self._read("sightings", bucket, others).with_columns(
            sources=pl.col("source_id").replace_strict(self.slugs, default=None, return_dtype=pl.String())
        )
        seen = seen.group_by("contact_id").agg(
            pl.col("sources").drop_nulls().unique().sort(), pl.col("first_seen").min(), pl.col("last_seen").max()
        )
        rows = self._read("contacts", bucket, others).join(seen, on="contact_id", how="left")
        for what in ("engagement", "shown", "consents"):
            rows = rows.join(self._read(what, bucket, others), on="contact_id", how="left")
        nobody = pl.lit([], dtype=pl.List(pl.String()))
        times = ("created_at", "first_seen", "last_seen", *_REACTIONS)
        return rows.with_columns(
            pl.when(pl.col("tags") != "").then(pl.col("tags").str.split(_SEPARATOR)).otherwise(nobody).alias("tags"),
            pl.col("sources").fill_null(nobody),
            pl.col("status").fill_null(ACTIVE),
            *(pl.from_epoch(name, "us").dt.replace_time_zone("UTC").alias(name) for name in times),
            aliases=pl.concat_list("match_key"),
        )
