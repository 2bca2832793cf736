"""Generations of contacts: what PostgreSQL holds of them, as Parquet files of the lake.

A file holds the contacts of one bucket of ids and remembers by a fingerprint what it was made of. Only a bucket whose
fingerprint is another one is read again, and only one whose content is another one is written again: publishing costs
what has changed, and memory what a bucket holds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any
from zlib import crc32

import polars as pl
import psycopg

from mailmill.errors import StoreUnavailable
from mailmill.io.lake import Lake, LakeFile
from mailmill.io.postgres import manifest
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.io.postgres.generation_rows import SQL, Rows
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import addresses, persons
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA, Published, content, of_domains

DATASET = "contacts"


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


@dataclass(kw_only=True)
class _Publication:
    conn: psycopg.Connection
    lake: Lake
    tenant_id: int
    now: datetime
    written: list[tuple[LakeFile, dict[str, Any]]] = field(default_factory=list)
    kept: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)  # file -> rows, facts

    def run(self, began: float) -> Published:
        rows = Rows(conn=self.conn, tenant_id=self.tenant_id)
        dns = content(rows.domains)
        before, buckets, rule = self._before(), rows.fingerprints(self.now), rows.rule
        together = _persons(rows, rule, buckets)
        for bucket, fingerprint in buckets.items():
            # a rule looks at all contacts, so it leaves no bucket out
            made_of = None if rule.is_on else f"{self._code} {fingerprint}"
            old = before.get(bucket)
            if old is not None and made_of and old.facts["fingerprint"] == made_of and self._dns_holds(old, dns, rows):
                self._keep(old, {**old.facts, "dns": dns})
                continue
            frame = rows.bucket(bucket, together)
            facts = {"bucket": bucket, "fingerprint": made_of, "content": content(frame), "rows": frame.height}
            facts |= {"dns": dns, "domains": of_domains(frame, rows.domains)}
            if old is not None and old.facts["content"] == facts["content"]:
                self._keep(old, facts)
            elif frame.height:
                self._write(frame, facts)
        if not self.written and not self.kept:  # no contacts are a generation too, and stay the same one
            if (nobody := before.get(None)) is not None:
                self._keep(nobody, nobody.facts)
            else:
                self._write(pl.DataFrame(schema=CONTACTS_SCHEMA), {"rows": 0})
        self._list()
        return self._published(together, began)

    @cached_property
    def _code(self) -> str:
        """What the files are made by: another version or list of words may derive something else from the same rows."""
        return f"{version('mailmill')} {addresses.rules_version()} {crc32(str(CONTACTS_SCHEMA).encode()):x}"

    def _before(self) -> dict[int | None, manifest.ListedFile]:
        """By bucket, None where nobody was there, what is listed; a file that the lake has lost is made anew."""
        files = manifest.listed(self.conn, tenant_id=self.tenant_id, dataset=DATASET)
        return {file.facts.get("bucket"): file for file in files if self.lake.path(file.file).exists()}

    def _dns_holds(self, old: manifest.ListedFile, dns: str, rows: Rows) -> bool:
        """Whether DNS says of the file's domains what it said when the file was made."""
        if old.facts["dns"] == dns:
            return True
        shown = self.lake.scan([old.file], pl.Schema({"domain": pl.String()})).collect()
        return bool(of_domains(shown, rows.domains) == old.facts["domains"])

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


def _persons(rows: Rows, rule: MergeSpec, buckets: Iterable[int]) -> pl.DataFrame:
    """PERSONS_SCHEMA of the tenant; empty without a rule."""
    parts = [persons.edges(rows.keys(bucket), rule) for bucket in buckets] if rule.is_on else []
    return persons.connected(pl.concat([pl.DataFrame(schema=persons.EDGES_SCHEMA), *parts]))
