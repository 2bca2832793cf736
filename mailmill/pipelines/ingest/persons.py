"""One person, one contact, where a tenant's rule says that several contacts are the same person.

Nothing is merged in PostgreSQL: the rule is applied to what a generation shows. So switching it off brings every
contact back as it was, and no address is ever altered: mail goes to one that somebody gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import polars as pl

from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.configuration.words import LawfulBasis
from mailmill.pipelines.ingest import verdicts
from mailmill.pipelines.ingest.contacts import RANK
from mailmill.pipelines.ingest.generations import ACTIVE, GRAVEST, WITHDRAWN

EDGES_SCHEMA = pl.Schema({"contact_id": pl.Int64(), "key": pl.Int128()})
# contacts that are one person with another one; person_id is the lowest contact_id of them
PERSONS_SCHEMA = pl.Schema({"contact_id": pl.Int64(), "person_id": pl.Int64()})
# one value of one contact and who said so; field is a column's name, or 'fields.<custom field>'
SAID_SCHEMA = pl.Schema(
    {"contact_id": pl.Int64(), "field": pl.String(), "value": pl.String(), **dict.fromkeys(RANK, pl.Int64())}
)
VALUES = ("email", "phone", "name", "language", "category", "country", "time_zone")
CONSENTS = ("withdrawn", *get_args(LawfulBasis))  # who withdrew for one address did not mean that one alone
EACH = MergeSpec()  # everybody is a person alone
_CUSTOM = "fields."
_LATEST = ("last_seen", "last_accepted", "last_delivered", "last_opened", "last_clicked", "last_bounced")


def edges(contacts: pl.DataFrame, rule: MergeSpec) -> pl.DataFrame:
    """What makes a contact the same person as another: equal keys. Up to two rows a contact.

    In:     contact_id, match_key, phone (E.164 or null).
    Out:    EDGES_SCHEMA; a key is a hash of 127 bits: ten million contacts fit into memory, and no two keys meet.
    """
    found = []
    if rule.strips:
        found.append(contacts.filter(pl.col("match_key").str.contains("@", literal=True)).select(
            "contact_id", key=_hashed(_bare(pl.col("match_key"), rule))))  # fmt: skip
    if rule.phone:
        found.append(contacts.drop_nulls("phone").select("contact_id", key=_hashed(pl.col("phone"))))
    return pl.concat(found) if found else pl.DataFrame(schema=EDGES_SCHEMA)


def mailbox(key: pl.Expr, rule: MergeSpec) -> pl.Expr:
    """By what the rule tells mailboxes apart, of a match key; a number is its own. (SQL: mailbox_of)"""
    if not rule.strips:
        return key
    return pl.when(key.str.contains("@", literal=True)).then(_bare(key, rule)).otherwise(key)


def _bare(key: pl.Expr, rule: MergeSpec) -> pl.Expr:
    """An address less what the rule makes nothing of; a local part of which nothing would be left stays."""
    local, domain = key.str.extract("^(.*)@"), key.str.extract("@([^@]*)$")
    bare = local
    if rule.plus_tags:
        bare = bare.str.replace(r"\+.*$", "")
    if rule.dots:
        bare = pl.when(domain.is_in(list(rule.dots))).then(bare.str.replace_all(".", "", literal=True)).otherwise(bare)
    # in quotes a plus and a dot are characters like any other
    kept = (bare == "") | local.str.starts_with('"')
    return pl.when(kept).then(local).otherwise(bare) + "@" + domain


def mailboxes(match_keys: Sequence[str], rule: MergeSpec) -> list[str]:
    """The mailbox of each key, in their order."""
    keys = pl.DataFrame({"match_key": match_keys}, schema={"match_key": pl.String})
    return keys.select(mailbox(pl.col("match_key"), rule)).to_series().to_list()


def _hashed(text: pl.Expr) -> pl.Expr:
    return text.hash(1).cast(pl.Int128) * (1 << 63) + text.hash(2).cast(pl.Int128)


def connected(edges: pl.DataFrame) -> pl.DataFrame:
    """The contacts that are one person: directly by a key, or by way of others.

    Each round hands every contact the lowest id among those it shares a key with, follows these hints to their ends and
    goes on with the ends alone, so that long chains shrink by at least half of their links a round.
    In:     EDGES_SCHEMA, any order. Out: PERSONS_SCHEMA, by contact_id; who is a person alone is left out.
    """
    links = edges.unique().rename({"contact_id": "at"}).filter(pl.col("key").is_duplicated())
    found = links.select(contact_id="at", person_id="at").unique()
    while links.height:
        lowest = links.with_columns(to=pl.col("at").min().over("key")).group_by("at").agg(pl.col("to").min())
        ends = _followed(lowest)
        found = found.join(ends, left_on="person_id", right_on="at", how="left").select(
            "contact_id", person_id=pl.coalesce("to", "person_id")
        )
        links = links.join(ends, on="at").select("key", at="to").unique().filter(pl.col("key").is_duplicated())
    return found.sort("contact_id").match_to_schema(PERSONS_SCHEMA)


def _followed(hints: pl.DataFrame) -> pl.DataFrame:
    """at -> to, where each `to` that is somewhere an `at` is followed on. Hints lead to lower ids, so they end."""
    while True:
        further = hints.join(hints.rename({"at": "to", "to": "end"}), on="to").select("at", to="end")
        if further.sort("at").equals(hints.sort("at")):
            return hints
        hints = further


def merged(
    rows: pl.DataFrame, said: pl.DataFrame, persons: pl.DataFrame, rule: MergeSpec, domains: pl.DataFrame | None = None
) -> pl.DataFrame:
    """One row a person: field by field the value of the best rank, the gravest status, everything else united.

    The address is one that mail may go to, where there is one: a source still stands for it, and it is not invalid.
    Verdict, its reason and the match key are those of the address that won. Where a number makes contacts one, all of
    them are aliases: what is suppressed of one that did not win keeps the person from being mailed as well.
    In:     rows, as `completed` takes them, all contacts of each person among them; said, SAID_SCHEMA, of those who are
            several; PERSONS_SCHEMA; DOMAINS_SCHEMA, of these rows. Out: as rows, the person's id for contact_id.
    """
    several = rows.join(persons, on="contact_id", how="inner")
    if several.is_empty():
        return rows
    alone = rows.join(persons, on="contact_id", how="anti")
    if rule.phone:
        several = several.with_columns(aliases=pl.concat_list("aliases", "phone").list.drop_nulls())
    # of one rank are values of one batch: then the value decides, so that the result is still one
    claims = said.join(persons, on="contact_id").join(_usable(several, domains), on=["contact_id", "field"], how="left")
    best = claims.sort("person_id", "field", "usable", *RANK, "value", "contact_id").drop("usable")
    best = best.unique(["person_id", "field"], keep="last", maintain_order=True)
    whole = several.group_by("person_id").agg(
        pl.col("tags", "sources", "aliases").list.explode().drop_nulls().unique().sort(),
        pl.col("first_seen", "created_at").min(),
        pl.col(_LATEST).max(),
        consent=pl.col("consent").sort_by(_order("consent", CONSENTS), nulls_last=True).first(),
        status=pl.col("status").sort_by(_order("status", (*GRAVEST, ACTIVE, WITHDRAWN))).first(),
    )
    values = best.filter(pl.col("field").is_in(VALUES)).pivot(
        on="field", on_columns=list(VALUES), index="person_id", values="value"
    )
    for part in (values, _of_the_address(several, best), _custom_fields(best)):
        whole = whole.join(part, on="person_id", how="left")
    whole = whole.with_columns(pl.col("fields").fill_null("{}"), contact_id="person_id")
    return pl.concat([alone, whole.select(alone.columns)])


def _usable(several: pl.DataFrame, domains: pl.DataFrame | None) -> pl.DataFrame:
    """contact_id, field (email alone), usable: the more, the better mail gets there."""
    valid = verdicts.judged(several, domains)["verdict"] != "invalid"
    stands = pl.col("status") != WITHDRAWN
    return several.select(
        "contact_id", field=pl.lit("email"), usable=2 * stands.cast(pl.Int8) + valid.cast(pl.Int8)
    )  # fmt: skip


def _order(column: str, words: Sequence[str]) -> pl.Expr:
    """The place of a text among these; an unknown one comes first, none at all is null."""
    return pl.col(column).replace_strict(
        {None: None, **{word: at for at, word in enumerate(words)}}, default=-1, return_dtype=pl.Int8()
    )


def _of_the_address(several: pl.DataFrame, best: pl.DataFrame) -> pl.DataFrame:
    """person_id, match_key, verdict, verdict_reason: of the contact that gave the address, else of the lowest id."""
    giver = best.filter(pl.col("field") == "email").select("person_id", "contact_id", gave=pl.lit(True))
    ordered = several.join(giver, on=["person_id", "contact_id"], how="left").sort(
        "person_id", "gave", "contact_id", nulls_last=True
    )
    first = ordered.unique("person_id", keep="first", maintain_order=True)
    return first.select("person_id", "match_key", "verdict", "verdict_reason")


def _custom_fields(best: pl.DataFrame) -> pl.DataFrame:
    """person_id, fields: a JSON object."""
    custom = best.filter(pl.col("field").str.starts_with(_CUSTOM))
    pair = _json_text(pl.col("field").str.strip_prefix(_CUSTOM)) + ": " + _json_text(pl.col("value"))
    return custom.group_by("person_id").agg(fields="{" + pair.sort_by("field").str.join(", ") + "}")


def _json_text(text: pl.Expr) -> pl.Expr:
    return pl.struct(v=text).struct.json_encode().str.slice(5).str.strip_suffix("}")
