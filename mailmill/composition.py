"""The live objects of one installation, built from its settings. Nobody else builds them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict

from mailmill import references
from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io import data_folder
from mailmill.io.postgres.database import Database, Role, external
from mailmill.io.postgres.server import DAGSTER_DATABASE, EmbeddedServer
from mailmill.io.postgres.version import SchemaCheck
from mailmill.settings import Settings, read_settings

if TYPE_CHECKING:  # polars, duckdb and httpx take their time to import; a verb pays only for what it uses
    from mailmill.io.dns import DnsResolver
    from mailmill.io.forgetting import Forgetter
    from mailmill.io.lake import Lake
    from mailmill.io.person_proof import DagsterStorage
    from mailmill.io.postgres import keys
    from mailmill.io.postgres.accounts import Account
    from mailmill.io.postgres.audiences import PostgresCampaigns, PostgresContacts
    from mailmill.io.postgres.ingest_store import IngestStore
    from mailmill.io.warehouse import Publication, Warehouse
    from mailmill.pipelines.ingest.ports import Feed, SourceRow
    from mailmill.pipelines.target.identities import Preflight
    from mailmill.pipelines.target.planning import Planned


class Installation:
    """Where everything of this installation is. Opens nothing until it is asked for."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or read_settings()

    @property
    def home(self) -> Path:
        return self.settings.home_path

    @property
    def project(self) -> Path:
        return self.settings.project_path

    @cached_property
    def server(self) -> EmbeddedServer | None:
        """The embedded PostgreSQL, None when MAILMILL_DATABASE_URL names another one."""
        if self.settings.database_url is not None:
            return None
        options = {}
        for item in self.settings.postgres_options.split():
            name, equals, value = item.partition("=")
            if not equals:
                raise Misconfigured(f"{item!r} is not name=value", place="MAILMILL_POSTGRES_OPTIONS")
            options[name] = value
        return EmbeddedServer(home=self.home, options=options)

    @cached_property
    def database(self) -> Database:
        """PostgreSQL with the schema this mailmill works with; another one is refused at the first connection.

        Raises: Misconfigured while a restore is not through: somebody who was forgotten may be in it again; and where
                nothing was ever made, for an empty database would answer as if everything were lost.
        """
        self.expect_data()
        if self.restoring.exists():
            raise Misconfigured(
                "a restore was begun here and is not through",
                place=str(self.restoring),
                remedy="Run it again: `mailmill restore FILE --replace`.",
            )
        return replace(self.any_database, verify=SchemaCheck())

    def expect_data(self) -> None:
        """Raises: Misconfigured when the embedded server has no data folder yet: most often it is the wrong folder."""
        if self.server is not None:
            data_folder.check(self.home, make=False)

    @property
    def restoring(self) -> Path:
        """Stands in the data folder from the beginning of a restore until whoever was forgotten is so again."""
        return self.home / "restoring"

    @cached_property
    def any_database(self) -> Database:
        """PostgreSQL whatever its schema, for what migrates, backs up and restores. The embedded server starts when
        the first connection is made.

        Raises: Misconfigured when the data folder belongs to another version of mailmill.
        """
        if self.server is None:
            assert self.settings.database_url is not None
            return external(self.settings.database_url.get_secret_value())
        data_folder.check(self.home)
        return self.server.database()

    @cached_property
    def lake(self) -> Lake:
        from mailmill.io.lake import Lake

        return Lake(root=self.home / "lake")

    @cached_property
    def warehouse(self) -> Warehouse:
        from mailmill.io.warehouse import Warehouse

        return Warehouse(folder=self.home / "warehouse", lake=self.lake)

    def publish_warehouse(self, tenant: str | None = None) -> list[Publication]:
        """Publish the analysts' files as things stand now, all of them or one tenant's."""
        return self.warehouse.publish(self.database, now=datetime.now(UTC), tenant=tenant)

    def pinned(self, now: datetime) -> set[str]:
        """Files of the lake that analysts' files still name, or may be read under."""
        return self.warehouse.pinned(now)

    @cached_property
    def forgetter(self) -> Forgetter:
        """What erases a person from every store."""
        return self.forgetter_over(self.database)

    def forgetter_over(self, database: Database) -> Forgetter:
        """The same over another database than the checked one: a restore is not through before it forgot again."""
        from mailmill.io.forgetting import Forgetter
        from mailmill.io.person_proof import Places

        places = Places(
            database=database, lake=self.lake, home=self.home, project=self.project,
            journal=self.settings.journal_path, dagster=self.dagster_storages,
        )  # fmt: skip
        return Forgetter(database=database, lake=self.lake, warehouse=self.warehouse, places=places)

    @property
    def dagster_storages(self) -> list[DagsterStorage]:
        """Every place in which Dagster may have kept runs; where a setting names one, that is the last."""
        from mailmill.io.person_proof import DagsterStorage

        if self.server is not None:
            own = DagsterStorage(conninfo=self.server.conninfo("mailmill_owner", DAGSTER_DATABASE), schema="public")
        else:  # in the name of the URL's own user, as Dagster made it
            assert self.settings.database_url is not None
            own = DagsterStorage(conninfo=self.settings.database_url.get_secret_value(), schema="dagster")
        named = self.settings.dagster_storage_url
        if named is None:
            return [own]
        # as Dagster has it, the URL names a driver as well
        url = re.sub(r"^(\w+)\+\w+:", r"\1:", named.get_secret_value())
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise Misconfigured(
                "not a PostgreSQL URL",
                place="MAILMILL_DAGSTER_STORAGE_URL",
                remedy="Write postgresql://user:password@host:5432/name.",
            ) from error
        return [own, DagsterStorage(conninfo=url, schema="public")]

    @property
    def public_url(self) -> str:
        """Under which the ingress is reached. Without a setting it is on loopback, which is enough for a sandbox."""
        return self.settings.public_url.rstrip("/") or f"http://{self.local_host}:{self.settings.ingress_port}"

    @property
    def local_host(self) -> str:
        """Where this machine reaches its own servers, as a URL has it; an address that means all of them is none to
        connect to."""
        bind = self.settings.bind
        if bind in ("0.0.0.0", "::"):
            return "127.0.0.1"
        return f"[{bind}]" if ":" in bind else bind

    @cached_property
    def ingest(self) -> IngestStore:
        """Where batches and contacts are kept."""
        from mailmill.io.postgres.ingest_store import IngestStore

        return IngestStore(database=self.database, lake=self.lake)

    @cached_property
    def resolver(self) -> DnsResolver | None:
        """What asks DNS, None where no server is set. Raises: Misconfigured when the setting cannot be read."""
        from mailmill.io.dns import DnsResolver, servers

        found = servers(self.settings.resolver)
        return DnsResolver(servers=found) if found else None

    @property
    def preflight(self) -> Preflight:
        """What looks up whether an identity may send in bulk."""
        from mailmill.pipelines.send import dkim
        from mailmill.pipelines.target.identities import Preflight

        def record(reference: str) -> str:
            return dkim.record(dkim.load(self.secret(reference), place=reference))

        return Preflight(self.resolver, record, self.public_url)

    def source(self, name: str) -> SourceRow:
        """The source `tenant/slug`. Raises: Misconfigured when there is none."""
        from mailmill.io.postgres import ingest

        with self.database.transaction() as conn:
            return ingest.source(conn, name)

    def feed(self, source: SourceRow, files: Sequence[Path] = (), *, full: bool = False) -> Feed:
        """What reads a source: these files, or all that is new in its folder or at its API; full: all it has."""
        from mailmill.io.sources.feeds import feed_of

        private = [entry.strip() for entry in self.settings.private_sources.split(",") if entry.strip()]

        return feed_of(source, project=self.project, secret=self.secret, files=files, full=full, private=private)

    def _planner(self) -> tuple[PostgresCampaigns, PostgresContacts]:
        """What planning works on."""
        from mailmill.io.postgres.audiences import PostgresCampaigns, PostgresContacts

        return (
            PostgresCampaigns(database=self.database, lake=self.lake),
            PostgresContacts(database=self.database, lake=self.lake),
        )

    def start_due(self, campaign_id: int, *, by: str) -> Planned | None:
        """Freeze and start a campaign that is due, or call it missed; None when it is neither or not ours."""
        from mailmill.pipelines.target.ticks import start_due

        store, contacts = self._planner()
        for due in store.due():
            if due.campaign_id == campaign_id:
                return start_due(due, store, store, contacts, self.preflight, self.public_url, by)
        return None

    def tick(self, *, by: str) -> list[Planned]:
        """Start every campaign that is due, finish every one that is done. Any number of ticks may run at once."""
        from mailmill.pipelines.target.ticks import tick

        store, contacts = self._planner()
        return tick(
            schedule=store,
            campaigns=store,
            contacts=contacts,
            preflight=self.preflight,
            public_url=self.public_url,
            by=by,
        )

    def plan(self, campaign_id: int, *, by: str) -> Planned | None:
        """Freeze and start one due campaign; None when another planner has it."""
        from mailmill.pipelines.target.planning import plan

        store, contacts = self._planner()
        return plan(
            campaign_id, campaigns=store, contacts=contacts, preflight=self.preflight, public_url=self.public_url, by=by
        )

    def settle(self, *, by: str) -> list[str]:
        """End what can no longer be sent, finish what is done, of every campaign. Out: the names of those finished."""
        store, _ = self._planner()
        return store.settle(by=by)

    def send_slice(self, campaign: str, *, max_seconds: float, progress: Callable[[str], None]) -> dict[str, int]:
        """Work at one campaign in this process until nothing is left to send soon. Out: messages by what they became.

        Raises: StoreUnavailable, Misconfigured.
        """
        from mailmill.io.send_worker import run_worker

        done = run_worker(
            self.database,
            self.settings.journal_path,
            self.secret,
            campaigns=frozenset([campaign]),
            until_idle=True,
            max_s=max_seconds,
        )
        for what, why in done.report.problems.items():
            progress(f"{what}: {why}")
        if done.report.failed:  # the journal, say: nothing will be sent until somebody mends it
            raise StoreUnavailable(f"the worker {done.worker} gave up: {done.report.problems.get('worker')}")
        return {what: n for what, n in done.report.counts.items() if n}

    def account(self, campaign_id: int) -> Account:
        """A campaign's ledger by state."""
        from mailmill.io.postgres import accounts

        with self.database.transaction() as conn:
            return accounts.account(conn, campaign_id)

    def secret(self, reference: str) -> str:
        """The value behind a reference of the YAML files: `env:NAME`, or `file:path` (relative: in the project folder).

        Raises: Misconfigured naming the reference, never the value.
        """
        return references.value(reference, project=self.project)

    def signing_keys(self, purpose: keys.Purpose, role: Role = "owner") -> dict[int, bytes]:
        """Key id -> secret of every key that verifies; the first one is the one that signs.

        Raises: Misconfigured when there is none yet.
        """
        from mailmill.io.postgres import keys

        with self.database.transaction(role) as connection:
            found = keys.usable(connection, purpose)
        if not found:
            raise Misconfigured(f"there is no {purpose} key yet", remedy="Run `mailmill apply`, which makes it.")
        return found
