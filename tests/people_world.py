"""Two tenants with contacts from a folder, a campaign that is planned, and every store that may hold a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from typer.testing import CliRunner

from mailmill.cli import VERBS
from mailmill.cli.app import app
from mailmill.composition import Installation

ANN = "ann@people.example"
PHONE = "+4315337031"
PROJECT = """
kind: tenant
slug: {tenant}
name: {tenant}
postal_address: Street 1
---
kind: source
tenant: {tenant}
slug: inbox
type: csv
folder: {tenant}
max_reject_share: 1
{source}---
kind: source
tenant: {tenant}
slug: desk
type: manual
---
kind: transport
tenant: {tenant}
slug: relay
type: sandbox
---
kind: identity
tenant: {tenant}
slug: news
from_name: News
from_address: news@{tenant}.example
return_path_domain: {tenant}.example
---
kind: template
tenant: {tenant}
slug: spring
subject: Spring
html: '<p>{{{{ email }}}}</p> <a href="{{{{ unsubscribe_url }}}}">leave</a> {{{{ postal_address }}}}'
text: '{{{{ email }}}} {{{{ unsubscribe_url }}}} {{{{ postal_address }}}}'
---
kind: segment
tenant: {tenant}
slug: everyone
rule: {{all: []}}
---
kind: campaign
tenant: {tenant}
slug: spring
segment: everyone
template: spring
identity: news
transport: relay
"""
PEOPLE = (
    "email,name,phone,country,referred_by,tags\r\n"
    f"Ann@People.example,Ann,01 5337031,AT,,buyer;vip\r\n"
    f"bob@people.example,Bob,,AT,{ANN},buyer\r\n"
    f"joann@people.example,Joann,,,,vip\r\n"
    f"cid@people.example,Cid,,,,\r\n"
    f"broken {ANN}@,Nobody,,,,\r\n"
)


@dataclass(frozen=True)
class People:
    """An installation, and the short words for what a test does to it."""

    mill: Installation

    def tenant(self, slug: str, *, source: str = "", people: str = PEOPLE) -> None:
        folder = self.mill.project / slug
        folder.mkdir(exist_ok=True)
        (folder / "people.csv").write_text(people, encoding="utf-8", newline="")
        yaml = self.mill.project / f"{slug}.yaml"
        yaml.write_text(PROJECT.format(tenant=slug, source=source), encoding="utf-8")
        self.do("apply", str(yaml))

    def planned(self, slug: str, **terms: Any) -> None:
        """The tenant with its contacts taken in and its campaign's audience frozen."""
        self.tenant(slug, **terms)
        self.do("ingest", f"{slug}/inbox")
        self.do("campaign", "start", f"{slug}/spring")
        self.mill.tick(by="test")

    def do(self, *words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    def ask(self, *words: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*words, "--json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.mill.database.transaction() as conn:
            cursor = conn.execute(query, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def files(self, tenant_id: int | None = None) -> Iterator[Path]:
        root = self.mill.lake.root if tenant_id is None else self.mill.lake.root / str(tenant_id)
        return (path for path in root.rglob("*.parquet*") if path.is_file())

    def texts(self, tenant_id: int) -> str:
        """All that the lake's files and PostgreSQL's rows say of a tenant, and its folder, as one lower-case text.

        Read in another way than the erasure's own search does it.
        """
        found = [str(pl.read_parquet(path).rows()) for path in self.files(tenant_id)]
        slug = self.rows("SELECT slug FROM tenants WHERE id = %s", tenant_id)[0][0]
        found += [path.read_bytes().decode("latin-1") for path in (self.mill.project / slug).iterdir()]
        tables = self.rows(
            "SELECT c.relname, EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')"
            " FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"
        )
        for table, owned in tables:
            rows = self.rows(f"SELECT r::text FROM {table} r" + (f" WHERE tenant_id = {tenant_id}" if owned else ""))
            found.append(str(rows))
        return "\n".join(found).lower()


def load_verbs() -> None:
    from importlib import import_module

    for module in dict.fromkeys(VERBS.values()):
        import_module(f"mailmill.cli.{module}")
