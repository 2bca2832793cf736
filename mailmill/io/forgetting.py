"""A person erased from every store of a tenant, and the search that proves it.

The order makes any kill good by running it again: the hash goes to the log beside the database first; PostgreSQL, the
manifest and the hash change in one transaction; dropped files, written anew before, take the place of the old ones
after it; the old files of the lake are removed then, and stay listed as erased until they are. What is left of a killed
run names nobody, or is found by the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product

import polars as pl
import psycopg

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io import lake_erasure, person_search
from mailmill.io.forgotten_log import ForgottenLog
from mailmill.io.lake import Lake
from mailmill.io.person_proof import Places, Searched
from mailmill.io.postgres import aliases, erasure, ingest, keys, manifest
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.io.postgres.generation_rows import merge_rule
from mailmill.io.sources import drop_folders
from mailmill.io.sources.contents import shown
from mailmill.io.sources.drop_folders import Looked
from mailmill.io.warehouse import Warehouse
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_raw import keys_of
from mailmill.pipelines.ingest.forgotten import recognised
from mailmill.pipelines.ingest.ports import SourceRow

PASSES = 3  # over what is written meanwhile by those who began before; each is a whole search


@dataclass(slots=True, kw_only=True)
class Forgot:
    """What was done for one tenant. Nothing in it names the person, others may be."""

    tenant: str
    contacts: int = 0
    messages: int = 0
    lake_files: int = 0
    folder_files: int = 0
    operators: int = 0  # rows of the list for every tenant that name them, and stay unless all tenants forget them
    others: list[str] = field(default_factory=list)  # who were shown as one with them for a number alone, and stay
    not_there: list[str] = field(default_factory=list)  # folders of sources, which nobody could search
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
    places: Places

    @property
    def log(self) -> ForgottenLog:
        return ForgottenLog(self.places.home / "forgotten.jsonl")

    def forget(self, tenant_id: int, tenant: str, asked: Sequence[str], *, everywhere: bool = False) -> Forgot:
        """Erase a person from one tenant. In: asked, as contacts.match_key; everywhere, for all tenants to come too.

        Raises: StoreUnavailable when a store fails; running it again goes on.
        """
        done, who = Forgot(tenant=tenant), Person(tuple(asked))
        with self._alone(tenant_id):
            for _ in range(PASSES):
                who, sources = self._once(tenant_id, tenant, who, done, everywhere=everywhere)
                done.searched = self.places.search(tenant_id, tenant, who, sources)
                if not any(found.erasable for found in done.searched):
                    break
        return done

    @contextmanager
    def _alone(self, tenant_id: int) -> Iterator[None]:
        """Two forgets of a tenant come one after the other, to the end: both write its dropped files anew."""
        with driver_errors(), self.database.connect(autocommit=True) as conn:
            conn.execute(erasure.SQL["alone"], {"tenant_id": tenant_id})
            yield

    def _once(
        self, tenant_id: int, tenant: str, before: Person, done: Forgot, *, everywhere: bool
    ) -> tuple[Person, Sequence[SourceRow]]:
        """In: before, the person as an earlier pass found them: what comes meanwhile is found by all they had."""
        folders: list[Looked] = []
        try:
            with self.database.transaction() as conn:
                conn.execute(erasure.SQL["hold"], {"tenant_id": tenant_id})
                named = [*before.keys, *erasure.sharing(conn, tenant_id, before.keys)]
                same, others = aliases.of_mailbox(conn, self.lake, tenant_id, named)
                who = aliases.person(conn, tenant_id, before.keys, same)
                done.others = done.others or [key for key in others if key not in who.keys]
                who = who.with_all_of(before)
                self.log.append(
                    None if everywhere else tenant, erasure.hashes(conn, tenant_id, who.keys), datetime.now(UTC)
                )
                done.contacts, done.messages = len(who.contact_ids), len(who.message_ids)
                live = ingest.sources(conn, tenant=tenant)
                # behind them those that were deleted: what was dropped for them may still lie there
                sources = [*live, *(x for x in ingest.sources(conn, tenant=tenant, deleted=True) if x not in live)]
                files = conn.execute(erasure.SQL["files"], {"tenant_id": tenant_id}).fetchall()
                done.lake_files += lake_erasure.rewrite(conn, self.lake, tenant_id, who, files, sources)
                self._look(conn, who, sources, folders)
                read = drop_folders.shared(live, self.places.project)
                done.not_there = [shown(folder) for folder in read if not folder.is_dir()]
                done.operators = erasure.erase(conn, tenant_id, who, everywhere=everywhere)
                _, found = erasure.search(conn, tenant_id, who)
                erasure.mask(conn, tenant_id, who, found)
        except BaseException:
            for folder in folders:
                drop_folders.discard(folder)
            raise
        for one in found:
            if one.table not in erasure.CONFIGURATION:
                done.masked[one.table] = done.masked.get(one.table, 0) + one.rows
        done.folder_files += sum(len(folder.rewritten) for folder in folders)
        self._after(tenant_id, tenant, who, folders)
        return who, sources

    def _look(self, conn: psycopg.Connection, who: Person, sources: Sequence[SourceRow], folders: list[Looked]) -> None:
        """Write dropped files anew beside the old ones. Each stays the batch it is, or it would come in twice."""
        for folder, readers in drop_folders.shared(sources, self.places.project).items():
            try:
                folders.append(drop_folders.look(folder, [source.spec for source in readers], who, write=True))
            except OSError as error:
                name = readers[0].name
                raise StoreUnavailable(f"the folder of {name} cannot be written: {error.strerror}") from error
            pairs = [both for file in folders[-1].rewritten for both in file.keys]
            for source, (old, new) in product(readers, pairs):
                which = {"tenant_id": source.tenant_id, "source_id": source.id, "old": old, "new": new}
                conn.execute(erasure.SQL["renamed_batch"], which)

    def _after(self, tenant_id: int, tenant: str, who: Person, folders: Sequence[Looked]) -> None:
        """Folders first, whose files would come in again; the warehouse names the new files of the lake, then the old
        ones go, and whatever nobody lists that holds the person."""
        try:
            for folder in folders:
                drop_folders.replace(folder)
                drop_folders.set_aside(folder, self.places.quarantine(tenant))
        except OSError as error:
            raise StoreUnavailable(f"a dropped file cannot be replaced: {error.strerror}; run this again") from error
        if any(self.warehouse.folder.glob("*.duckdb")):
            self.warehouse.publish(self.database, now=datetime.now(UTC))
        lake_erasure.clear(self.database, self.lake, tenant_id)
        self.lake.remove_torn(tenant_id)
        self._remove_unlisted(tenant_id, who)
        self.places.mask_elsewhere(tenant_id, who)

    def _remove_unlisted(self, tenant_id: int, who: Person) -> None:
        """What nobody lists and holds the person. It is searched first and looked up again under the lock, so that no
        file goes that an import listed meanwhile; one that lists it later finds it gone (lake_erasure.taking_in)."""
        with self.database.transaction() as conn:
            listed = lake_erasure.listed(conn, tenant_id)
        paths = {str(path.relative_to(self.lake.root)): path for path in self.places.lake_files(tenant_id)}
        holding = [name for name, path in paths.items() if name not in listed and person_search.holds(path, who)]
        if not holding:
            return
        with self.database.transaction() as conn:
            conn.execute(erasure.SQL["hold"], {"tenant_id": tenant_id})
            listed = lake_erasure.listed(conn, tenant_id)
            for name in holding:
                if name not in listed:
                    paths[name].unlink(missing_ok=True)

    # ------------------------------------------------------------ after a restore

    def replay(self) -> list[Forgot]:
        """Forget again whoever was forgotten after a backup was made: by the log, and by hashes that a restore kept.

        Raises: Misconfigured when a hash was made by a key that is gone; the others are forgotten all the same.
        """
        with self.database.transaction() as conn:
            tenants = conn.execute(erasure.SQL["tenants"]).fetchall()
            secrets = keys.usable(conn, "suppression")
            rules = {tenant_id: merge_rule(conn, tenant_id) for tenant_id, _ in tenants}
        done: list[Forgot] = []
        lost: set[str] = set()
        for tenant_id, tenant in tenants:
            for scope in (tenant, None):
                hashes = self._known(tenant_id if scope else None, scope)
                lost |= {text for text in hashes if int(text.partition(":")[0]) not in secrets}
                if not hashes:
                    continue
                everyone = pl.Series(sorted(self._every_key(tenant_id, tenant)), dtype=pl.String)
                found = recognised(everyone, secrets, hashes, rules[tenant_id])
                with self.database.transaction() as conn:
                    erasure.keep_hashes(conn, tenant_id if scope else None, hashes)
                    found = erasure.without_others(conn, tenant_id, found)
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
                frame, columns = lake_erasure.scan(self.lake, file.file), spec.columns if spec else {}
                found |= keys_of(frame, columns, file.facts, spec.country if spec else None)
        return found
