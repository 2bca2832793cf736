"""E-mail addresses as people type them -> the address mail goes to, the key it is matched by, and a verdict.

The common case is one regular expression over the whole column; what it does not take (display names, `mailto:`,
quoted local parts, other scripts, and all that is broken) goes through the slower steps, set by set.

Reserved domains (example.org, .test, .invalid, .localhost) are risky and taken in: they are syntactically right,
nobody's mail is lost on them, and whoever tries mailmill out uses them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache

import idna
import polars as pl

from mailmill.pipelines.ingest import verdicts
from mailmill.pipelines.ingest.verdicts import Verdict
from mailmill.pipelines.ingest.wordlists import word_lists

EXAMINED_SCHEMA = pl.Schema(
    {
        "address": pl.String(),  # as it goes to RCPT TO: local part as typed, domain lower-cased and IDNA-encoded
        "address_key": pl.String(),  # local part with folded case and the domain; plus-tags and dots stay
        "domain": pl.String(),
        "display_name": pl.String(),  # of 'Ann <a@x.org>'
        "verdict": pl.String(),  # null where nothing was typed
        "verdict_reason": pl.String(),  # a code of rejects.REASONS or verdicts.RISKS; null when valid
        "score": pl.Int16(),  # 0 to 100, before DNS was asked
        "suggestion": pl.String(),  # the address that was probably meant
    }
)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 atext
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # RFC 1035 with digits first (RFC 1123)
_TOP_LABEL = r"(?:[A-Za-z]{2,63}|[Xx][Nn]--[A-Za-z0-9-]{0,58}[A-Za-z0-9])"  # ICANN: letters, or IDNA
_DOT_ATOM = rf"{_ATOM}(?:\.{_ATOM})*"
_DOMAIN = rf"(?:{_LABEL}\.)+{_TOP_LABEL}"
_PLAIN = rf"^{_DOT_ATOM}@{_DOMAIN}$"
_QUOTED_LOCAL = r'^"(?:[ !#-\[\]-~]|\\[ -~])*"$'  # RFC 5321 4.1.2 Quoted-string: printable ASCII only
_WIDE_LOCAL = r"^[^\x00-\x20\x7f\"(),:;<>@\[\\\]]+$"  # RFC 6531: any other character beyond ASCII
_INVISIBLE = "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
_STRAY_JOINER = "(?:^|([ -~]))[\u200c\u200d]+|[\u200c\u200d]+(?:([ -~])|$)"  # one that joins no letters
_IN_QUOTES = "^['\"‘“„‚«»](.*@[^@]*)['\"’”“‘«»]$"  # as Outlook shows an address; no domain ends in a quote
_FULL_WIDTH = {chr(0xFEE0 + ascii): chr(ascii) for ascii in range(0x21, 0x7F)} | {"\ufe6b": "@"}
RULES = 5  # to be raised with every change of this module, or of verdicts.py, that changes what becomes of an address
MAX_LOCAL, MAX_ADDRESS = 64, 254  # octets: RFC 5321 4.5.3.1.1, and 4.5.3.1.3 less the angle brackets


@cache
def rules_version() -> str:
    """Changes when an address may be judged otherwise than before: with RULES and with every list of words."""
    return hashlib.sha256(f"{RULES} {word_lists()}".encode()).hexdigest()[:16]


def examine(typed: pl.Series) -> pl.DataFrame:
    """What each typed address is.

    In:     String, null or empty where nothing was typed.
    Out:    EXAMINED_SCHEMA, one row an element in the same order; address and key are null unless valid or risky.
    Source: RFC 5321 4.1.2 and 4.5.3.1, RFC 5322 3.4, UTS 46 (IDNA 2008, non-transitional).
    """
    frame = pl.DataFrame({"typed": typed.cast(pl.String).str.strip_chars()}).with_row_index("row")
    frame = frame.with_columns(
        plain=pl.col("typed").str.contains(_PLAIN)
        & (pl.col("typed").str.len_bytes() <= MAX_ADDRESS)
        & ~pl.col("typed").str.contains(r"(?i)[@.]xn--")
        & ~pl.col("typed").str.contains(r"^[^@]{65}")
    )
    plain = frame.filter(pl.col("plain"))
    other = frame.filter(pl.col("plain").not_() & (pl.col("typed") != ""))
    parts = [_examined_plain(plain)]
    if other.height:
        parts.append(_examined_other(other))
    judged = _judged(pl.concat(parts)).sort("row")
    if judged.height < frame.height:
        judged = frame.select("row").join(judged, on="row", how="left", maintain_order="left")
    return judged.select(EXAMINED_SCHEMA.names()).match_to_schema(EXAMINED_SCHEMA)


def _examined_plain(plain: pl.DataFrame) -> pl.DataFrame:
    """Split what is known to be an ASCII dot-atom, an @ and a domain."""
    split = plain.select("row", at=pl.col("typed").str.splitn("@", 2)).unnest("at")
    domain = pl.col("field_1").str.to_lowercase()
    return split.select(
        "row",
        display_name=pl.lit(None, pl.String),
        local=pl.col("field_0"),
        local_key=pl.col("field_0").str.to_lowercase(),
        domain=domain,
        fault=pl.lit(None, pl.String),
    )


def _examined_other(other: pl.DataFrame) -> pl.DataFrame:
    """Unwrap, normalise, split and diagnose what is not plain."""
    bare = _unwrapped(other)
    at = pl.col("bare").str.extract(r"^(?s:.*)@([^@]*)$")
    split = bare.with_columns(
        local=pl.col("bare").str.extract(r"^(?s:(.*))@[^@]*$"),
        typed_domain=at.str.normalize("NFKC").str.strip_chars_end("."),
    )
    split = split.join(_encoded_domains(split["typed_domain"]), on="typed_domain", how="left", maintain_order="left")
    inner = pl.col("local").str.slice(1, pl.col("local").str.len_chars() - 2).str.replace_all(r"\\(.)", "$1")
    # "ann"@x.org and ann@x.org are one mailbox (RFC 5321 4.1.2): the quotes are no part of its name
    unquoted = pl.when(pl.col("local").str.contains(_QUOTED_LOCAL) & inner.str.contains(rf"^{_DOT_ATOM}$")).then(inner)
    split = split.with_columns(local_key=unquoted.otherwise(pl.col("local")), fault=_fault())
    folded = _folded(split["local_key"])
    return split.with_columns(folded).select("row", "display_name", "local", "local_key", "domain", "fault")


def _unwrapped(other: pl.DataFrame) -> pl.DataFrame:
    """Columns bare and display_name: NFC without invisible characters, `mailto:`, quotes, 'Ann <a@x.org>', a last
    comma.

    Not NFKC, which makes another mailbox of some (RFC 6532 section 3.1); only what is typed in full width is ASCII.
    """
    wide = pl.col("typed").str.replace_many(_FULL_WIDTH).str.normalize("NFC").str.replace_all(r"\p{Z}", " ")
    wide = wide.str.replace_all(_INVISIBLE, "").str.replace_all(_STRAY_JOINER, "${1}${2}").str.strip_chars()
    frame = other.with_columns(typed=pl.when(pl.col("typed").str.contains(r"[^ -~]")).then(wide).otherwise("typed"))
    bracketed = pl.col("typed").str.extract(r"^[^<>]*<([^<>]*)>[\s,;]*$")
    name = pl.col("typed").str.extract(r"^([^<>]*)<[^<>]*>[\s,;]*$").str.strip_chars().str.strip_chars("\"'")
    bare = pl.coalesce(bracketed, "typed").str.strip_chars(" \t,;")
    bare = bare.str.replace(_IN_QUOTES, "$1")
    bare = bare.str.replace(r"(?i)^mailto:\s*", "").str.replace(r"^([^?]*@[^?]*)\?.*$", "$1")
    return frame.with_columns(bare=bare.str.strip_chars(), display_name=pl.when(name != "").then(name))


def _encoded_domains(domains: pl.Series) -> pl.DataFrame:
    """typed_domain -> domain in ASCII, null where UTS 46 refuses it. One call of `idna` for each distinct name."""
    distinct = domains.drop_nulls().unique()
    ascii_only = distinct.str.contains(r"^[ -~]*$") & ~distinct.str.contains(r"(?i)(^|\.)xn--")
    plain, other = distinct.filter(ascii_only), distinct.filter(~ascii_only)
    encoded = pl.Series("domain", [_idna(name) for name in other], dtype=pl.String)
    return pl.DataFrame(
        {"typed_domain": pl.concat([plain, other]), "domain": pl.concat([plain.str.to_lowercase(), encoded])}
    )


@lru_cache(maxsize=65_536)  # the pieces of a batch have the same domains
def _idna(domain: str) -> str | None:
    try:
        return idna.encode(domain, uts46=True, std3_rules=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        return None


def _fault() -> pl.Expr:
    """The first thing that is wrong, as a code of rejects.REASONS; null when nothing is."""
    bare, local, domain = pl.col("bare"), pl.col("local"), pl.col("domain")
    quoted = local.str.contains(_QUOTED_LOCAL)
    dot_atom = local.str.contains(rf"^{_DOT_ATOM}$")
    wide = local.str.contains(r"[^\x00-\x7f]") & local.str.contains(_WIDE_LOCAL) & ~local.str.contains(r"^\.|\.\.|\.$")
    several = bare.str.contains(r"@[^@\s,;]+[\s,;|/]+[^@]*@") & ~quoted.fill_null(False)
    too_long = (local.str.len_bytes() + domain.str.len_bytes() + 1 > MAX_ADDRESS) | (domain.str.len_bytes() > 253)
    return (
        pl.when(local.is_null()).then(pl.lit("address_without_at"))
        .when(several).then(pl.lit("several_addresses"))
        .when(local.str.len_bytes() > MAX_LOCAL).then(pl.lit("address_too_long"))
        .when(~(quoted | dot_atom | wide)).then(pl.lit("local_part_syntax"))
        .when(pl.col("typed_domain").str.contains(r"^\[.*\]$")).then(pl.lit("domain_literal"))
        .when(domain.is_null()).then(pl.lit("domain_idna"))
        .when(~domain.str.contains(".", literal=True)).then(pl.lit("domain_without_dot"))
        .when(~domain.str.contains(rf"^{_DOMAIN}$")).then(pl.lit("domain_syntax"))
        .when(too_long).then(pl.lit("address_too_long"))
    )  # fmt: skip


def _folded(locals_: pl.Series) -> pl.Series:
    """Case folded as Unicode says; per distinct value where it is not ASCII, since polars only lower-cases."""
    wide = locals_.filter(locals_.str.contains(r"[^\x00-\x7f]")).unique()
    folded = {text: unicodedata.normalize("NFC", text.casefold()) for text in wide}
    lower = locals_.str.to_lowercase()
    return lower if not folded else locals_.replace_strict(folded, default=lower, return_dtype=pl.String)


def _judged(split: pl.DataFrame) -> pl.DataFrame:
    """EXAMINED_SCHEMA with `row`, from the parts and the fault."""
    fine = pl.col("fault").is_null()
    return verdicts.weighed(split).select(
        "row", "display_name", "verdict", "verdict_reason", "score", "suggestion",
        address=pl.when(fine).then(pl.concat_str("local", pl.lit("@"), "domain")),
        address_key=pl.when(fine).then(pl.concat_str("local_key", pl.lit("@"), "domain")),
        domain=pl.when(fine).then("domain"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What one typed address is."""

    address: str | None
    address_key: str | None
    domain: str | None
    display_name: str | None
    verdict: Verdict
    verdict_reason: str | None
    score: int | None
    suggestion: str | None


def check(typed: str) -> Checked:
    """One address through the same rules as a million of them; nothing typed is invalid, reason `no_address`."""
    row = examine(pl.Series([typed])).row(0, named=True)
    if row["verdict"] is None:
        row |= {"verdict": "invalid", "verdict_reason": "no_address", "score": 0}
    return Checked(**row)


def masked(address: pl.Expr) -> pl.Expr:
    """Addresses and phone numbers so that a person cannot be told from them: a***@e***.org, +49***."""
    mail = address.str.replace(r"^(.?).*@(.?).*?(\.[^.@]*)?$", "$1***@$2***$3")
    return pl.when(address.str.contains("@", literal=True)).then(mail).otherwise(address.str.slice(0, 3) + "***")
