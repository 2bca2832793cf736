"""A person erased from every store of a tenant, and the search that proves it.

The order makes any kill good by running it again: the hash goes to the log beside the database first; PostgreSQL, the
manifest and the hash change in one transaction; the old files of the lake are removed after it, and stay listed as
erased until they are. What is left of a killed run names nobody, or is found by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psycopg

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io import lake_erasure, person_search
from mailmill.io.forgotten_log import ForgottenLog
from mailmill.io.lake import Lake
from mailmill.io.postgres import erasure, ingest, keys, manifest
from mailmill.io.postgres.database import Database
from mailmill.io.sources import drop_folders
from mailmill.io.warehouse import Warehouse
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_raw import keys_of
from mailmill.pipelines.ingest.forgotten import recognised
from mailmill.pipelines.ingest.ports import SourceRow

UNFINISHED_S = 3600.0  # a file under a temporary name that is older was left by a kill
# of the data folder: PostgreSQL and the lake are searched in their own way; the sandbox plays the world outside
ELSEWHERE = ("postgres", "lake", "sandbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """One store after the erasure: how many tables or files were read, and where the person still is."""

    store: str
    looked_at: int
    hits: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Forgot:
    """What was done for one tenant. Nothing in it names the person."""

    tenant: str
    contacts: int = 0
    messages: int = 0
    lake_files: int = 0
    folder_files: int = 0
    masked: dict[str, int] = field(default_factory=dict)  # table -> rows of others that mentioned the person
    searched: list[Searched] = field(default_factory=list)

    @property
    def proved(self) -> bool:
        return not any(found.hits for found in self.searched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetter:
    """Where a person may be."""

    database: Database
    lake: Lake
    warehouse: Warehouse
    home: Path
    project: Path

    @property
    def log(self) -> ForgottenLog:
        return ForgottenLog(self.home / "forgotten.jsonl")

    def forget(self, tenant_id: int, tenant: str, asked: Sequence[str], *, everywhere: bool = False) -> Forgot:
        """Erase a person from one tenant. In: asked, as contacts.match_key; everywhere, for all tenants to come too.

        Raises: StoreUnavailable when a store fails; running it again goes on.
        """
        done = Forgot(tenant=tenant)
        with self.database.transaction() as conn:
            conn.execute(erasure.SQL["hold"], {"tenant_id": tenant_id})
            who = erasure.person(conn, tenant_id, asked, self._aliases(conn, tenant_id, asked))
            self.log.append(None if everywhere else tenant, erasure.hashes(conn, who.keys), datetime.now(UTC))
            done.contacts, done.messages = len(who.contact_ids), len(who.message_ids)
            sources = ingest.sources(conn, tenant=tenant)
            files = conn.execute(erasure.SQL["files"], {"tenant_id": tenant_id}).fetchall()
            done.lake_files = lake_erasure.rewrite(conn, self.lake, tenant_id, who, files, sources)
            done.folder_files = self._clean_folders(conn, who, sources)
            erasure.erase(conn, tenant_id, who, everywhere=everywhere)
            _, found = erasure.search(conn, tenant_id, who)
            erasure.mask(conn, tenant_id, who, found)
            done.masked = {one.table: one.rows for one in found if one.table not in erasure.CONFIGURATION}
        self._after(tenant_id, who)
        done.searched = self.search(tenant_id, who, sources)
        return done

    def _aliases(self, conn: psycopg.Connection, tenant_id: int, asked: Sequence[str]) -> list[int]:
        """Contacts that the published generation shows as one person with these keys, by the tenant's own rule."""
        found: list[int] = []
        for file in manifest.listed(conn, tenant_id=tenant_id, dataset="contacts"):
            frame = lake_erasure.scan(self.lake, file.file)
            if "aliases" not in frame.collect_schema():
                continue
            theirs = frame.filter(pl.col("aliases").list.set_intersection(list(asked)).list.len() > 0)
            keys = theirs.select("aliases").collect(engine="streaming")["aliases"].explode().drop_nulls().to_list()
            found += erasure.ids_of(conn, tenant_id, keys)
        return found

    def _clean_folders(self, conn: psycopg.Connection, who: Person, sources: Sequence[SourceRow]) -> int:
        rewritten = 0
        for source in sources:
            try:
                _, files, _ = drop_folders.erase(source.spec, self.project, who)
            except OSError as error:
                raise StoreUnavailable(f"the folder of {source.name} cannot be written: {error.strerror}") from error
            for file in files:
                which = {"tenant_id": source.tenant_id, "source_id": source.id}
                conn.execute(erasure.SQL["renamed_batch"], {**which, "old": file.old_key, "new": file.new_key})
            rewritten += len(files)
        return rewritten

    def _after(self, tenant_id: int, who: Person) -> None:
        """The warehouse names the new files, then the old ones go, and whatever nobody lists that holds the person."""
        if any(self.warehouse.folder.glob("*.duckdb")):
            self.warehouse.publish(self.database, now=datetime.now(UTC))
        lake_erasure.clear(self.database, self.lake, tenant_id)
        with self.database.transaction() as conn:
            listed = {row[0] for row in conn.execute(erasure.SQL["files"], {"tenant_id": tenant_id})}
        for path in self._files(tenant_id):
            name = str(path.relative_to(self.lake.root))
            if name not in listed and (_old_and_torn(path) or person_search.holds(path, who)):
                path.unlink(missing_ok=True)

    def _files(self, tenant_id: int) -> Iterator[Path]:
        folder = self.lake.root / str(tenant_id)
        return (path for path in sorted(folder.rglob("*")) if path.is_file()) if folder.is_dir() else iter(())

    # ------------------------------------------------------------ after a restore

    def replay(self) -> list[Forgot]:
        """Forget again whoever was forgotten after a backup was made: by the log, and by hashes that a restore kept.

        Raises: Misconfigured when a hash was made by a key that is gone; the others are forgotten all the same.
        """
        with self.database.transaction() as conn:
            tenants = conn.execute(erasure.SQL["tenants"]).fetchall()
            secrets = keys.usable(conn, "suppression")
        done: list[Forgot] = []
        lost: set[str] = set()
        for tenant_id, tenant in tenants:
            for scope in (tenant, None):
                hashes = self._known(tenant_id if scope else None, scope)
                lost |= {text for text in hashes if int(text.partition(":")[0]) not in secrets}
                if not hashes:
                    continue
                everyone = pl.Series(sorted(self._every_key(tenant_id, tenant)), dtype=pl.String)
                found = recognised(everyone, secrets, hashes)
                with self.database.transaction() as conn:
                    erasure.keep_hashes(conn, tenant_id if scope else None, hashes)
                if found:
                    done.append(self.forget(tenant_id, tenant, found, everywhere=scope is None))
        if lost:
            raise Misconfigured(
                f"{len(lost)} forgotten persons cannot be recognised: the key of their hashes is not in the backup",
                place=str(self.log.path),
                remedy="Forget them again by their addresses, or restore a later backup.",
            )
        return done

    def _known(self, tenant_id: int | None, scope: str | None) -> set[str]:
        with self.database.transaction() as conn:
            kept = {text for (text,) in conn.execute(erasure.SQL["known_hashes"], {"tenant_id": tenant_id})}
        return kept | {text for entry in self.log.entries() if entry.tenant == scope for text in entry.hashes}

    def _every_key(self, tenant_id: int, tenant: str) -> set[str]:
        """By what anybody is known to a tenant, in PostgreSQL and in raw batches."""
        with self.database.transaction() as conn:
            found = {key for (key,) in conn.execute(erasure.SQL["every_key"], {"tenant_id": tenant_id})}
            sources = {source.slug: source.spec for source in ingest.sources(conn, tenant=tenant)}
            files = manifest.listed(conn, tenant_id=tenant_id, dataset="raw")
        for file in files:
            if self.lake.path(file.file).exists():
                spec = sources.get(file.part)
                frame = lake_erasure.scan(self.lake, file.file)
                found |= keys_of(frame, spec.columns if spec else {}, spec.country if spec else None)
        return found

    # ------------------------------------------------------------ the proof

    def search(self, tenant_id: int, who: Person, sources: Sequence[SourceRow]) -> list[Searched]:
        """Every store, read again: no table, file or folder of the tenant may mention the person."""
        with self.database.transaction() as conn:
            tables, found = erasure.search(conn, tenant_id, who)
        files = list(self._files(tenant_id))
        return [
            Searched(store="PostgreSQL", looked_at=tables, hits=tuple(_in_table(one) for one in found)),
            Searched(
                store="lake",
                looked_at=len(files),
                hits=tuple(str(path) for path in files if person_search.holds(path, who)),
            ),
            self._folders(who, sources),
            self._home(who),
        ]

    def _folders(self, who: Person, sources: Sequence[SourceRow]) -> Searched:
        looked_at, hits = 0, []
        for source in sources:
            count, rewritten, holding = drop_folders.erase(source.spec, self.project, who)
            looked_at += count
            hits += [f"{one.path}: {one.why}" for one in holding] + [f"{one.path}: came meanwhile" for one in rewritten]
        return Searched(store="drop folders", looked_at=looked_at, hits=tuple(hits))

    def _home(self, who: Person) -> Searched:
        """The rest of the data folder, byte by byte: warehouse, journals, spool, Dagster's files, logs."""
        own = (path for path in sorted(self.home.iterdir()) if path.name not in ELSEWHERE) if self.home.is_dir() else ()
        files = [path for top in own for path in ([top] if top.is_file() else sorted(top.rglob("*"))) if path.is_file()]
        hits = tuple(
            str(path) for path in files if person_search.bytes_hold(path, who) or person_search.store_holds(path, who)
        )
        return Searched(store="data folder", looked_at=len(files), hits=hits)


def _in_table(one: erasure.Found) -> str:
    fix = "; it is configuration: change the YAML and apply it" if one.table in erasure.CONFIGURATION else ""
    return f"{one.table}: {one.rows} rows{fix}"


def _old_and_torn(path: Path) -> bool:
    return path.name.endswith(".tmp") and path.exists() and path.stat().st_mtime < time.time() - UNFINISHED_S
