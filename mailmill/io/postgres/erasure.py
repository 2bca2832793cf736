"""A person erased from PostgreSQL, and the search that proves it. The caller owns the transaction."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import psycopg
from psycopg import sql

from mailmill.errors import StoreUnavailable
from mailmill.io.postgres import keys, sightings
from mailmill.io.postgres.generation_rows import merge_rule
from mailmill.io.postgres.sql import statements
from mailmill.io.postgres.suppressions import raise_change_number
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import erasure as persons
from mailmill.pipelines.ingest.erasure import MASK, Person, channel_of
from mailmill.pipelines.ingest.persons import mailboxes

SQL = statements("erasure")
MEANWHILE = "somebody was forgotten meanwhile; nothing was taken in, and the next run goes on"
# what the operator wrote in YAML or made by hand: named when it holds the person, never changed behind their back
CONFIGURATION = ("tenants", "sources", "transports", "identities", "templates", "segments", "campaigns", "links",
                 "tags", "fields", "signing_keys", "api_keys")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Rows of a table that mention a person."""

    table: str
    rows: int


def person(conn: psycopg.Connection, tenant_id: int, asked: Sequence[str], aliases: Iterable[int] = ()) -> Person:
    """Whom these keys name: their contacts, and the other address and numbers of those contacts.

    A number that somebody else's contact has too stays out, unless it was asked for.
    In: asked, as contacts.match_key; aliases, further contacts that the tenant holds for the same person.
    """
    which = {"tenant_id": tenant_id, "keys": list(asked), "ids": list(aliases)}
    rows = conn.execute(SQL["contacts"], which).fetchall()
    ids = [row[0] for row in rows]
    phones = sorted({row[3] for row in rows if row[3]} - set(asked))
    shared = {phone for (phone,) in conn.execute(SQL["shared_phones"], {**which, "phones": phones, "ids": ids})}
    found: dict[str, None] = dict.fromkeys(asked)
    for _, match_key, email, phone in rows:
        found |= dict.fromkeys(key for key in (match_key, (email or "").lower(), phone) if key and key not in shared)
    named = {"tenant_id": tenant_id, "keys": list(found), "ids": ids}
    messages = conn.execute(SQL["messages"], named).fetchall()
    spellings = {row[2] for row in rows if row[2]} | {address for _, address in messages if address}
    return Person(
        keys=tuple(found),
        spellings=tuple(sorted(spellings)),
        contact_ids=tuple(ids),
        message_ids=tuple(message for message, _ in messages),
    )


def sharing(conn: psycopg.Connection, tenant_id: int, match_keys: Sequence[str]) -> list[str]:
    """By what the contacts are matched that have a number among these keys: they may be more than one person."""
    numbers = [key for key in match_keys if channel_of(key) == "phone"]
    if not numbers:  # a number is looked for in every contact
        return []
    return [key for (key,) in conn.execute(SQL["sharing"], {"tenant_id": tenant_id, "numbers": numbers})]


def ids_of(conn: psycopg.Connection, tenant_id: int, match_keys: Sequence[str]) -> list[int]:
    rows = conn.execute(SQL["ids_of"], {"tenant_id": tenant_id, "keys": list(match_keys)})
    return [contact for (contact,) in rows]


def without_others(conn: psycopg.Connection, tenant_id: int, match_keys: Sequence[str]) -> list[str]:
    """These keys but for numbers that only other people's contacts have by now: a row elsewhere named the number."""
    theirs = {
        phone for (phone,) in conn.execute(SQL["others_numbers"], {"tenant_id": tenant_id, "keys": list(match_keys)})
    }
    return [key for key in match_keys if key not in theirs]


def hashes(conn: psycopg.Connection, tenant_id: int, found: Sequence[str]) -> list[str]:
    """'<key id>:<hash>' of each key, by the key that signs today; then of each mailbox, where the tenant has a rule."""
    number, secret = next(iter(keys.usable(conn, "suppression").items()))
    rule = merge_rule(conn, tenant_id)
    mails = [key for key in found if channel_of(key) == "email"] if rule.strips else []
    left = [persons.keyed_hash(secret, channel_of(key), key) for key in found]
    left += [persons.keyed_hash(secret, "mailbox", box) for box in dict.fromkeys(mailboxes(mails, rule))]
    return [f"{number}:{one}" for one in left]


def keep_hashes(conn: psycopg.Connection, tenant_id: int | None, found: Iterable[str]) -> None:
    """Keep out again whom these hashes name. In: tenant_id None, from every tenant."""
    left = sorted(found)
    # of which channel a hash is, nobody knows without the address; it is compared whole
    channels = ["email"] * len(left)
    conn.execute(SQL["keep_hashes"], {"scope": tenant_id, "channels": channels, "hashes": left})


def erase(conn: psycopg.Connection, tenant_id: int, who: Person, *, everywhere: bool) -> int:
    """Erase a person of a tenant and leave the hashes. Run under `hold`. Out: rows of the operator's list that stay.

    In: everywhere, the hashes count for every tenant, and the operator's own suppressions go as well.
    """
    left = hashes(conn, tenant_id, who.keys)
    channels = [channel_of(key) for key in who.keys]
    which = {
        "tenant_id": tenant_id, "ids": list(who.contact_ids), "keys": list(who.keys), "everywhere": everywhere,
        "message_ids": list(who.message_ids), "hashes": left,
        "channels": channels + ["email"] * (len(left) - len(channels)), "scope": None if everywhere else tenant_id,
    }  # fmt: skip
    for statement in (
        "count_erasure", "forget", "blank_fields", "blank_attempts", "blank_messages", "erase_engagement",
        "erase_contacts", "erase_consents", "erase_suppressions", "erase_removals",
    ):  # fmt: skip
        conn.execute(SQL[statement], which)
    sightings.remove(conn, tenant_id, pl.Series(who.contact_ids, dtype=pl.Int64))
    conn.execute(SQL["mask_errors"], _values(tenant_id, who))
    raise_change_number(conn)
    row = conn.execute(SQL["operators"], which).fetchone()
    return int(row[0]) if row else 0


# ---------------------------------------------------------------- mentions anywhere


def search(conn: psycopg.Connection, tenant_id: int, who: Person, *, schema: str = "public") -> tuple[int, list[Found]]:
    """Tables whose rows, of this tenant or of none, mention the person. Out: how many were searched, and hits."""
    found, tables = [], _tables(conn, schema)
    for table, (columns, of_tenant) in tables.items():
        query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
            sql.Identifier(schema, table), _mentioned(columns, of_tenant, table)
        )
        row = conn.execute(query, _values(tenant_id, who)).fetchone()
        if row and row[0]:
            found.append(Found(table=table, rows=int(row[0])))
    return len(tables), found


def mask(
    conn: psycopg.Connection, tenant_id: int, who: Person, found: Sequence[Found], *, schema: str = "public"
) -> None:
    """Mask mentions that stand in rows of others: a note, a custom field, a record nobody could read."""
    tables = _tables(conn, schema)
    for table in (one.table for one in found if one.table not in CONFIGURATION):
        columns, of_tenant = tables[table]
        changes = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), _clean(name, kind)) for name, kind in columns.items()
        )
        query = sql.SQL("UPDATE {} SET {} WHERE {}").format(
            sql.Identifier(schema, table), changes, _mentioned(columns, of_tenant, table)
        )
        conn.execute(query, _values(tenant_id, who))


def _tables(conn: psycopg.Connection, schema: str) -> dict[str, tuple[dict[str, str], bool]]:
    tables: defaultdict[str, dict[str, str]] = defaultdict(dict)
    of_tenant: dict[str, bool] = {}
    for table, column, kind, owned in conn.execute(SQL["columns"], {"schema": schema}):
        tables[table][column], of_tenant[table] = kind, owned
    return {table: (columns, of_tenant[table]) for table, columns in tables.items()}


def _text(name: str, kind: str) -> sql.Composable:
    column = sql.Identifier(name)
    # escaped, bytes beyond ASCII are \ooo; a backslash before a digit would else hide the mention's beginning
    return sql.SQL("encode({}, 'escape')" if kind == "bytea" else "{}::text").format(column)


def _clean(name: str, kind: str) -> sql.Composable:
    replaced = sql.SQL("regexp_replace({}, %(pattern)s, %(mask)s, 'gi')").format(_text(name, kind))
    back = {"bytea": "decode({}, 'escape')", "jsonb": "({})::jsonb", "text[]": "({})::text[]"}.get(kind, "{}")
    return sql.SQL(back).format(replaced)


def _mentioned(columns: Mapping[str, str], of_tenant: bool, table: str) -> sql.Composable:
    texts = sql.SQL(", ").join(_text(name, kind) for name, kind in columns.items())
    # CASE, for of two conditions with AND the planner takes the expression first, at a hundred times the cost a row
    mention = sql.SQL(
        "CASE WHEN lower(concat_ws(E'\\x1f', {0})) LIKE ANY (%(likely)s)"
        " THEN concat_ws(E'\\x1f', {0}) ~* %(pattern)s ELSE false END"
    ).format(texts)
    if table == "tenants":
        return sql.SQL("id = %(tenant_id)s AND {}").format(mention)
    return sql.SQL("tenant_id = %(tenant_id)s AND {}").format(mention) if of_tenant else mention


def literally(text: str) -> str:
    """A text as a LIKE pattern has it."""
    return re.sub(r"([\\%_])", r"\\\1", text)


def _escaped(text: str) -> str:
    """As `encode(…, 'escape')` writes the bytes of a text."""
    return "".join(f"\\{byte:03o}" if byte > 127 else "\\\\" if byte == 92 else chr(byte) for byte in text.encode())


def _values(tenant_id: int, who: Person) -> dict[str, object]:
    likely = [f"%{literally(form)}%" for needle in who.needles for form in {needle, _escaped(needle)}]
    words = "|".join(re.sub(r"([^\w@ ])", r"\\\1", form) for word in who.words for form in {word, _escaped(word)})
    # of the bytes \ooo the last digit belongs to no word
    pattern = rf"(?<![[:alnum:]._+-])(?:{words})(?![[:alnum:]]|[._-]+[[:alnum:]])"
    return {"tenant_id": tenant_id, "likely": likely, "pattern": pattern, "mask": MASK}


# ---------------------------------------------------------------- who takes rows in asks these


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Whom a tenant has forgotten, as hashes with the keys they were made with. `number` grows with each."""

    number: int
    hashes: frozenset[str]
    secrets: Mapping[int, bytes]
    rule: MergeSpec

    def __bool__(self) -> bool:
        return bool(self.hashes)


def forgotten(conn: psycopg.Connection, tenant_id: int) -> Forgotten:
    which = {"tenant_id": tenant_id}
    known = frozenset(text for (text,) in conn.execute(SQL["hashes"], which))
    secrets = keys.usable(conn, "suppression") if known else {}
    rule = merge_rule(conn, tenant_id)
    return Forgotten(number=number(conn, tenant_id), hashes=known, secrets=secrets, rule=rule)


def number(conn: psycopg.Connection, tenant_id: int) -> int:
    row = conn.execute(SQL["number"], {"tenant_id": tenant_id}).fetchone()
    return int(row[0]) if row else 0


def erasures(conn: psycopg.Connection, tenant_id: int) -> int:
    """How often somebody was erased from a tenant."""
    row = conn.execute(SQL["erasures"], {"tenant_id": tenant_id}).fetchone()
    return int(row[0]) if row else 0


def keep_away(conn: psycopg.Connection, tenant_id: int | None) -> None:
    """Keep a forget of this tenant, or of any, away until the transaction ends."""
    conn.execute(SQL["hold_shared" if tenant_id is not None else "hold_shared_all"], {"tenant_id": tenant_id})


def unless_forgotten(conn: psycopg.Connection, tenant_id: int, *, since: int) -> None:
    """Keep a forget of this tenant away until the transaction ends.

    Raises: StoreUnavailable when somebody was forgotten `since`: what was read before may name them, so read it again.
    """
    keep_away(conn, tenant_id)
    if number(conn, tenant_id) != since:
        raise StoreUnavailable(MEANWHILE)
