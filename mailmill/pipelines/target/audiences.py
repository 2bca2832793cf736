"""Audiences: who of a segment is mailed, who is not and why. All in polars, one row a contact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import polars as pl

from mailmill.errors import Misconfigured, listed
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest.generations import GRAVEST, WITHDRAWN
from mailmill.pipelines.ingest.persons import EACH, mailbox
from mailmill.pipelines.target.segments import custom_field
from mailmill.pipelines.target.templates import CONSTANTS, TemplateFacts

AUDIENCE_SCHEMA = pl.Schema(
    {
        "message_id": pl.Int64(),
        "contact_id": pl.Int64(),
        "address": pl.String(),
        "address_key": pl.String(),
        "domain": pl.String(),
        "provider": pl.String(),  # who runs the mailbox; null: not known
        "merge_values": pl.String(),
        "variant": pl.Int16(),  # which of the campaign's contents they get
        "aliases": pl.String(),  # the person's other addresses by the tenant's rule, SEPARATOR between; null: none
    }
)
LEDGER_COLUMNS = (
    "message_id", "tenant_id", "campaign_id", "contact_id", "address", "address_key", "domain", "provider", "variant",
    "aliases",
)  # fmt: skip
SUPPRESSION_SCHEMA = pl.Schema({"address_key": pl.String(), "reason": pl.String()})

# Why a contact is not mailed; the first that applies is the one that counts.
SUPPRESSED = GRAVEST
CONSENT_WITHDRAWN = "consent_withdrawn"  # a person's own word, where no suppression says it (any more)
REMOVED, UNPUBLISHED = "removed", "unpublished"  # a person took it out; it was added, but is not published yet
REASONS = ("no_email", "invalid", *SUPPRESSED, CONSENT_WITHDRAWN, WITHDRAWN, REMOVED, "duplicate", UNPUBLISHED)

CONTACT_FIELDS = ("email", "phone", "name", "language", "category", "country", "time_zone")
MAX_NAMED = 40  # names in a remedy
NOBODY = pl.Series(dtype=pl.Int64())
FIRST = pl.lit(0, pl.Int16())  # the choice where there is none
SEPARATOR, ABSENT = "\x1f", "\x02"  # between merge values; in the place of one that is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """The recipients, without message ids yet, by contact_id; and how many contacts each reason kept out."""

    recipients: pl.DataFrame
    exclusions: dict[str, int]
    members: int  # of the segment and added besides: recipients and excluded add up to it

    @property
    def empty_reason(self) -> str | None:
        """Why nobody is mailed, in words; None when somebody is."""
        if self.recipients.height:
            return None
        if not self.members:
            return "nobody to mail: the segment is empty"
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in self.exclusions.items())
        return f"nobody to mail: the segment has {self.members:,}, excluded are {reasons}"


def judged(
    members: pl.LazyFrame, suppressions: pl.DataFrame, removed: pl.Series = NOBODY, rule: MergeSpec = EACH
) -> pl.DataFrame:
    """Every contact of a segment with `excluded`: the reason it is not mailed, null for a recipient.

    In:     CONTACTS_SCHEMA; SUPPRESSION_SCHEMA, live, those in force for this campaign; removed, ids of contacts that
            a person took out; rule, what the tenant holds for one person, published so or not yet.
    Out:    the contacts' columns, address_key and excluded, by contact_id; in aliases the number as well, where the
            rule makes it the person's.
    """
    suppressed = (
        suppressions.sort(_gravity("reason")).unique("address_key", keep="first")
        .select("address_key", suppressed="reason")
    )  # fmt: skip
    # the match key is the folded address unless the contact was first known by its phone
    key = pl.when(pl.col("match_key").str.contains("@", literal=True)).then("match_key")
    members = members.with_columns(address_key=key.otherwise(pl.col("email").str.to_lowercase()))
    if rule.phone:
        every = pl.concat_list("aliases", "address_key", "phone").list.drop_nulls().list.unique()
        members = members.with_columns(aliases=every)
    members = members.join(suppressed.lazy(), on="address_key", how="left").sort("contact_id")
    frame = _by_alias(members.collect(), suppressed, rule).with_columns(
        excluded=pl.when(pl.col("email").is_null()).then(pl.lit("no_email"))
        .when(pl.col("verdict") == "invalid").then(pl.lit("invalid"))
        .when(pl.col("suppressed").is_not_null()).then("suppressed")
        .when(pl.col("consent") == WITHDRAWN).then(pl.lit(CONSENT_WITHDRAWN))
        .when(pl.col("status") == WITHDRAWN).then(pl.lit(WITHDRAWN))
        .when(pl.col("contact_id").is_in(removed.implode())).then(pl.lit(REMOVED))
    )  # fmt: skip
    # the first of several contacts with one address is mailed, whatever kept the others out
    twice = pl.col("excluded").is_null() & (pl.int_range(pl.len()).over("address_key", "excluded") > 0)
    return frame.with_columns(excluded=pl.when(twice).then(pl.lit("duplicate")).otherwise("excluded")).drop(
        "suppressed"
    )


def _by_alias(frame: pl.DataFrame, suppressed: pl.DataFrame, rule: MergeSpec) -> pl.DataFrame:
    """A person is suppressed by any address that they have or that the rule holds for the same mailbox, whether it is
    a contact (still) or not. In: suppressed holds an address's gravest reason."""
    keys = frame.lazy().filter(pl.col("aliases").list.len() > 1).select("contact_id", key="aliases").explode("key")
    if rule.strips:
        keys = pl.concat([keys, frame.lazy().select("contact_id", key="address_key")])
    found = keys.with_columns(mailbox(pl.col("key"), rule)).join(
        suppressed.lazy().select("suppressed", key=mailbox(pl.col("address_key"), rule)), on="key"
    )
    by_alias = found.group_by("contact_id").agg(pl.col("suppressed").sort_by(_gravity("suppressed")).first()).collect()
    return frame if by_alias.is_empty() else frame.update(by_alias, on="contact_id")


def _gravity(column: str) -> pl.Expr:
    return pl.col(column).replace_strict(
        {reason: at for at, reason in enumerate(SUPPRESSED)}, default=len(SUPPRESSED), return_dtype=pl.Int8()
    )


def count(judged_members: pl.DataFrame, unpublished: int = 0) -> dict[str, int]:
    """Exclusions by reason, in the order of precedence; reasons that kept nobody out are left out."""
    found = dict(judged_members.drop_nulls("excluded").group_by("excluded").len().iter_rows())
    if unpublished:
        found[UNPUBLISHED] = unpublished
    return {reason: found[reason] for reason in (*REASONS, *sorted(found.keys() - set(REASONS))) if reason in found}


def freeze(
    members: pl.DataFrame,
    template: TemplateFacts,
    contacts: pl.LazyFrame,
    *,
    place: str = "template",
    choice: pl.Expr = FIRST,
    bare: Sequence[frozenset[tuple[str, ...]]] = (),
    unpublished: int = 0,
) -> Audience:
    """The audience with its merge values, as it is sent.

    In:     `judged` members; contacts, the whole generation, to know which custom fields exist; place, what a person
            calls the template; with several variants, choice of one for a contact, and what each of them needs;
            unpublished, how many more were added that the generation does not hold.
    Raises: Misconfigured for a merge field nobody has, or one that is missing for a recipient and printed bare.
    """
    recipients = members.filter(pl.col("excluded").is_null())
    values = (
        recipients.lazy()  # so that each custom field is looked up once, however often its value is used
        .select(
            "contact_id",
            address="email",
            address_key="address_key",
            domain=pl.col("email").str.extract("@([^@]+)$"),
            provider="provider",
            variant=choice,
            **{f"field:{name}": merge_value(name) for name in template.merge_fields},
        )
        .collect()
    )
    _check_fields(values, template, contacts, place)
    for number, needed in enumerate(bare or [template.bare]):
        _check_bare(values.filter(variant=number), needed, place)
    columns = [pl.col(f"field:{name}").fill_null(ABSENT) for name in template.merge_fields]
    merged = pl.concat_str(columns, separator=SEPARATOR) if columns else pl.lit("")
    frame = values.select("contact_id", "address", "address_key", "domain", "provider", "variant", merge_values=merged)
    frame = frame.join(_other_addresses(recipients), on="contact_id", how="left", maintain_order="left")
    return Audience(recipients=frame, exclusions=count(members, unpublished), members=members.height + unpublished)


def merge_value(name: str) -> pl.Expr:
    """A merge field's text, with nothing that a subject must not hold (mime.breaks_header): a name that some program
    has spoilt keeps nobody from being mailed. Empty is as good as missing: nobody is greeted by a blank."""
    column = pl.col(name) if name in CONTACT_FIELDS else custom_field(name)
    text = column.str.replace_all(r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}]", "").str.strip_chars()
    return pl.when(text.str.len_bytes() > 0).then(text)


def _other_addresses(recipients: pl.DataFrame) -> pl.DataFrame:
    """contact_id, aliases: a suppression of any of them reaches the person while the campaign runs."""
    several = recipients.lazy().filter(pl.col("aliases").list.len() > 1).select("contact_id", "address_key", "aliases")
    each = several.explode("aliases").filter(pl.col("aliases") != pl.col("address_key")).group_by("contact_id")
    return each.agg(pl.col("aliases").sort().str.join(SEPARATOR)).collect()


def _check_fields(values: pl.DataFrame, template: TemplateFacts, contacts: pl.LazyFrame, place: str) -> None:
    missing = {name: values[f"field:{name}"].null_count() for name in template.merge_fields}
    everywhere = [name for name, n in missing.items() if n == values.height]
    for name, known in unknown_fields(everywhere, contacts).items():
        part, _, line = template.places.get(name, "").partition(":")
        raise Misconfigured(
            f"no contact has a field {name!r}", place=f"{place}, {part} line {line}" if line else place, remedy=known
        )


def _check_bare(values: pl.DataFrame, bare: frozenset[tuple[str, ...]], place: str) -> None:
    for names in sorted(bare):
        n = values.filter(pl.all_horizontal(pl.col(f"field:{name}").is_null() for name in names)).height
        if n:
            raise Misconfigured(
                f"{' or '.join(map(repr, names))} is missing for {n:,} of {values.height:,} recipients",
                place=place,
                remedy=f'Write {{{{ {names[-1]} | default("…") }}}}, or leave these contacts out of the segment.',
            )


def unknown_fields(names: Sequence[str], contacts: pl.LazyFrame) -> dict[str, str]:
    """The merge fields that are neither a contact's column nor a custom field of any contact.

    Out:    name -> a sentence with what may be meant and what is known.
    """
    asked = [name for name in names if name not in CONTACT_FIELDS]
    if not asked:
        return {}
    held = contacts.select(custom_field(name).is_not_null().any().alias(name) for name in asked).collect()
    unknown = [name for name in asked if not held[name][0]]
    return dict(zip(unknown, _meant(unknown, custom_fields(contacts)), strict=True)) if unknown else {}


def _meant(unknown: Sequence[str], custom: Sequence[str]) -> list[str]:
    known = (*CONTACT_FIELDS, *CONSTANTS, *custom)
    close = (get_close_matches(name, [one for one in known if one != name], n=1) for name in unknown)
    return [f"{f'Did you mean {found[0]}? ' if found else ''}Known are {listed(known, MAX_NAMED)}." for found in close]


def custom_fields(contacts: pl.LazyFrame) -> list[str]:
    """The names of all custom fields. In JSON text a quote within a value is escaped, so only a key matches."""
    keys = pl.col("fields").str.extract_all(r'"\w+"\s*:').explode().unique().sort()
    return contacts.select(keys.drop_nulls().str.extract(r"(\w+)")).collect().to_series().to_list()


def numbered(recipients: pl.DataFrame, first_id: int) -> pl.DataFrame:
    """The recipients with their message ids, one block from `first_id` on. Out: AUDIENCE_SCHEMA."""
    ids = pl.int_range(pl.len(), dtype=pl.Int64()) + first_id
    return recipients.with_columns(message_id=ids).select(AUDIENCE_SCHEMA.names()).cast(AUDIENCE_SCHEMA)


def named(audience: pl.DataFrame, suppressions: pl.DataFrame, rule: MergeSpec) -> bool:
    """Whether a suppression names somebody, by any of their addresses. In: AUDIENCE_SCHEMA, SUPPRESSION_SCHEMA."""
    if suppressions.is_empty():
        return False
    aliases = audience["aliases"].drop_nulls().str.split(SEPARATOR).explode()
    keys = pl.DataFrame({"key": pl.concat([audience["address_key"], aliases])}).select(mailbox(pl.col("key"), rule))
    return not keys.join(suppressions.select(key=mailbox(pl.col("address_key"), rule)), on="key", how="semi").is_empty()


def ledger_rows(audience: pl.DataFrame, *, tenant_id: int, campaign_id: int) -> pl.DataFrame:
    """What the ledger holds of an audience. In: AUDIENCE_SCHEMA. Out: LEDGER_COLUMNS; aliases as an array's text."""
    escaped = pl.col("aliases").str.replace_all(r'[\\"]', r"\$0").str.replace_all(SEPARATOR, '","', literal=True)
    whose = {"tenant_id": pl.lit(tenant_id), "campaign_id": pl.lit(campaign_id)}
    return audience.with_columns(**whose, aliases='{"' + escaped + '"}').select(LEDGER_COLUMNS)
