"""Generations of contacts: what PostgreSQL holds of them, as Parquet files of the lake.

A file holds the contacts of one bucket of ids and remembers by a fingerprint what it was made of. Only a bucket whose
fingerprint is another one is read again, and only one whose content is another one is written again: publishing costs
what has changed, and memory what a bucket holds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any
from zlib import crc32

import polars as pl
import psycopg

from mailmill.errors import StoreUnavailable
from mailmill.io.lake import Lake, LakeFile
from mailmill.io.postgres import manifest
from mailmill.io.postgres.copying import read
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import persons
from mailmill.pipelines.ingest.generations import ACTIVE, BUCKET_BITS, CONTACTS_SCHEMA, GRAVEST, completed, content
from mailmill.pipelines.ingest.persons import PERSONS_SCHEMA, SAID_SCHEMA
from mailmill.pipelines.ingest.ports import Published

SQL = statements("generations")
DATASET = "contacts"
_SEPARATOR = "\x1f"
_NUMBER, _TEXT, _TIME = pl.Int64(), pl.String(), pl.Datetime("us", "UTC")
_HELD = ("contact_id", "match_key", "email", "phone", "name", "language", "category", "country", "time_zone", "tags",
         "fields", "verdict", "verdict_reason", "created_at")  # fmt: skip
_REACTIONS = ("last_accepted", "last_delivered", "last_opened", "last_clicked", "last_bounced")
# the columns of each statement; times are epoch microseconds
_READ: Mapping[str, pl.Schema] = {
    "contacts": pl.Schema({name: _NUMBER if name in ("contact_id", "created_at") else _TEXT for name in _HELD}),
    "sightings": pl.Schema(dict.fromkeys(("contact_id", "source_id", "first_seen", "last_seen"), _NUMBER)),
    "engagement": pl.Schema(dict.fromkeys(("contact_id", *_REACTIONS), _NUMBER)),
    "shown": pl.Schema({"contact_id": _NUMBER, "status": _TEXT}),
    "keys": pl.Schema({"contact_id": _NUMBER, "match_key": _TEXT, "phone": _TEXT}),
}


def publish(database: Database, lake: Lake, tenant_id: int, now: datetime, *, patience_s: float = 600.0) -> Published:
    """Show the contacts as they are now, in the place of the last generation, in one transaction.

    Raises: StoreUnavailable when another publication of the tenant takes longer than `patience_s`, or the lake cannot
            be written: then the last generation stays.
    """
    began = time.perf_counter()
    with driver_errors(), database.connect(autocommit=True) as conn:
        conn.execute(SQL["lock_timeout"], {"milliseconds": str(int(patience_s * 1000))})
        try:
            conn.execute(SQL["lock"], {"tenant_id": tenant_id})
        except psycopg.errors.LockNotAvailable as error:
            raise StoreUnavailable("another publication of these contacts is still running") from error
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with conn.transaction():
            return _Publication(conn=conn, lake=lake, tenant_id=tenant_id, now=now).run(began)


def tenants(conn: psycopg.Connection) -> dict[str, int]:
    """Slug -> id of every tenant whose contacts are published."""
    return dict(conn.execute(SQL["tenants"]).fetchall())


@dataclass(frozen=True, kw_only=True)
class _Publication:
    conn: psycopg.Connection
    lake: Lake
    tenant_id: int
    now: datetime
    written: list[tuple[LakeFile, dict[str, Any]]] = field(default_factory=list)
    kept: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)  # file -> rows, facts

    def run(self, began: float) -> Published:
        rule = self._rule()
        before = self._before()
        buckets = self._fingerprints()
        together = self._persons(rule, buckets)
        slugs: dict[int, str] = dict(self.conn.execute(SQL["sources"], {"tenant_id": self.tenant_id}).fetchall())
        for bucket, fingerprint in buckets.items():
            # a rule looks at all contacts, so it leaves no bucket out
            made_of = None if any(rule.model_dump().values()) else fingerprint
            old = before.get(bucket)
            if old is not None and made_of is not None and old.facts.get("fingerprint") == made_of:
                self._keep(old, old.facts)
                continue
            frame = self._bucket(bucket, slugs, together)
            facts = {"bucket": bucket, "fingerprint": made_of, "content": content(frame), "rows": frame.height}
            if old is not None and old.facts.get("content") == facts["content"]:
                self._keep(old, facts)
            elif frame.height:
                self._write(frame, facts)
        if not self.written and not self.kept:  # no contacts are a generation too
            self._write(pl.DataFrame(schema=CONTACTS_SCHEMA), {"rows": 0})
        self._list()
        return self._published(together, began)

    def _rule(self) -> MergeSpec:
        row = self.conn.execute(SQL["merge_rule"], {"tenant_id": self.tenant_id}).fetchone()
        return MergeSpec.model_validate(row[0] if row else {})

    def _before(self) -> dict[int, manifest.ListedFile]:
        files = manifest.listed(self.conn, tenant_id=self.tenant_id, dataset=DATASET)
        return {file.facts["bucket"]: file for file in files if "bucket" in file.facts}

    def _fingerprints(self) -> dict[int, str]:
        """Bucket -> what it is made of, for each bucket with contacts."""
        row = self.conn.execute(SQL["origin"]).fetchone()
        code = f"{version('mailmill')} {row and row[0]} {crc32(str(CONTACTS_SCHEMA).encode()):x}"
        self.conn.execute(SQL["stage"])
        self.conn.execute(SQL["fill_shown"], {"tenant_id": self.tenant_id, "now": self.now, "gravest": list(GRAVEST)})
        self.conn.execute("ANALYZE shown")
        found = self.conn.execute(SQL["fingerprints"], {"tenant_id": self.tenant_id, "bits": BUCKET_BITS}).fetchall()
        return {bucket: f"{code} {rest}" for bucket, rest in found}

    def _persons(self, rule: MergeSpec, buckets: Iterable[int]) -> pl.DataFrame:
        """PERSONS_SCHEMA with the buckets of both. Empty without a rule."""
        parts = [pl.DataFrame(schema=persons.EDGES_SCHEMA)]
        if rule.plus_tags or rule.dots or rule.phone:
            parts += [persons.edges(self._copied("keys", bucket), rule) for bucket in buckets]
        found = persons.connected(pl.concat(parts))
        return found.with_columns(
            at=pl.col("contact_id") // (1 << BUCKET_BITS), to=pl.col("person_id") // (1 << BUCKET_BITS)
        )

    def _bucket(self, bucket: int, slugs: Mapping[int, str], together: pl.DataFrame) -> pl.DataFrame:
        """One file of the generation. Out: CONTACTS_SCHEMA."""
        mine = together.filter(pl.col("to") == bucket)
        others = mine.filter(pl.col("at") != bucket)["contact_id"].to_list()
        elsewhere = together.filter((pl.col("at") == bucket) & (pl.col("to") != bucket)).select("contact_id")
        rows = self._held(bucket, others, slugs).join(elsewhere, on="contact_id", how="anti")
        if mine.height:
            values = {"tenant_id": self.tenant_id, "members": mine["contact_id"].to_list()}
            said = read(self.conn, SQL["said"], SAID_SCHEMA, values)
            rows = persons.merged(rows, said, mine.select(PERSONS_SCHEMA.names()))
        return completed(rows)

    def _copied(self, what: str, bucket: int, others: list[int] | None = None) -> pl.DataFrame:
        first = bucket << BUCKET_BITS
        values = {"first": first, "last": first + (1 << BUCKET_BITS) - 1, "others": others or []}
        return read(self.conn, SQL[what], _READ[what], {"tenant_id": self.tenant_id, **values})

    def _held(self, bucket: int, others: list[int], slugs: Mapping[int, str]) -> pl.DataFrame:
        """What is held of these contacts, joined. Out: CONTACTS_SCHEMA but for what is derived."""
        seen = self._copied("sightings", bucket, others).with_columns(
            sources=pl.col("source_id").replace_strict(slugs, default=None, return_dtype=pl.String())
        )
        seen = seen.group_by("contact_id").agg(
            pl.col("sources").drop_nulls().unique().sort(), pl.col("first_seen").min(), pl.col("last_seen").max()
        )
        rows = self._copied("contacts", bucket, others)
        for part in (seen, self._copied("engagement", bucket, others), self._copied("shown", bucket, others)):
            rows = rows.join(part, on="contact_id", how="left")
        nobody = pl.lit([], dtype=pl.List(pl.String()))
        times = ("created_at", "first_seen", "last_seen", *_REACTIONS)
        return rows.with_columns(
            pl.when(pl.col("tags") != "").then(pl.col("tags").str.split(_SEPARATOR)).otherwise(nobody).alias("tags"),
            pl.col("sources").fill_null(nobody),
            pl.col("status").fill_null(ACTIVE),
            *(pl.from_epoch(name, "us").dt.replace_time_zone("UTC").alias(name) for name in times),
            consent=pl.lit(None, pl.String),
            aliases=pl.concat_list("match_key"),
        )

    def _write(self, frame: pl.DataFrame, facts: dict[str, Any]) -> None:
        self.written.append((self.lake.write(frame, tenant_id=self.tenant_id, dataset=DATASET), facts))

    def _keep(self, file: manifest.ListedFile, facts: dict[str, Any]) -> None:
        self.kept[file.file] = (file.rows, facts)

    def _list(self) -> None:
        as_of = {"as_of": self.now.isoformat()}
        self.conn.execute(SQL["withdraw"], {"tenant_id": self.tenant_id, "kept": list(self.kept)})
        facts = [json.dumps({**facts, **as_of}) for _, facts in self.kept.values()]
        self.conn.execute(SQL["keep"], {"files": list(self.kept), "facts": facts})
        for file, new in self.written:
            manifest.add(self.conn, file, tenant_id=self.tenant_id, dataset=DATASET, facts={**new, **as_of})

    def _published(self, together: pl.DataFrame, began: float) -> Published:
        alone = together.select(pl.col("person_id").n_unique()).item()
        return Published(
            rows=sum(file.rows for file, _ in self.written) + sum(rows for rows, _ in self.kept.values()),
            as_of=self.now,
            files_written=len(self.written),
            files_kept=len(self.kept),
            bytes_written=sum(file.bytes for file, _ in self.written),
            merged=together.height - alone,
            largest_person=together.group_by("person_id").len()["len"].max() or 0,  # type: ignore[arg-type]
            seconds=time.perf_counter() - began,
        )
