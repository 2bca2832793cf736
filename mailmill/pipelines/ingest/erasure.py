"""A person to be erased: how they are written in what we hold, and rows without them. Pure.

A mention is the address or number as a whole: ann@x.org is not mentioned by joann@x.org, nor by ann@x.org.uk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2s
from typing import Literal
from urllib.parse import quote

import idna
import polars as pl

from mailmill.pipelines.ingest.formats import ENDINGS

Channel = Literal["email", "phone"]
MASK = "***"
_GAP = r"[\s./()\x{a0}-]{0,3}"
WORD = r"\p{L}\p{N}"
_AT_ONCE = 400  # texts or numbers that one expression looks for: it has a largest size
_STAND_IN = "\x06"  # for a needle, whichever it is


def keyed_hash(secret: bytes, channel: Channel | Literal["mailbox"], key: str) -> str:
    """What is kept of a forgotten address: 64 hex digits that nobody without the key can try addresses against."""
    return digest(secret, f"{channel}:{key}".encode()).hex()


def digest(secret: bytes, text: bytes) -> bytes:
    """Keyed BLAKE2s: a MAC by itself, in one call that costs a fifth of an HMAC's. Source: RFC 7693 section 2.9."""
    return blake2s(text, key=secret).digest()


def channel_of(key: str) -> Channel:
    return "email" if "@" in key else "phone"


def channels(key: pl.Expr) -> pl.Expr:
    """channel_of a column of match keys."""
    return pl.when(key.str.contains("@", literal=True)).then(pl.lit("email")).otherwise(pl.lit("phone"))


def hashed_text(key: pl.Expr) -> pl.Expr:
    """What of a match key is hashed, as bytes: its channel with it."""
    return pl.concat_str(channels(key), pl.lit(":"), key).cast(pl.Binary).alias("key")


@dataclass(frozen=True)
class Person:
    """Who is to be erased.

    keys are as contacts.match_key, the first one as asked; spellings, other ways in which the stores write them.
    """

    keys: tuple[str, ...]
    spellings: tuple[str, ...] = ()
    contact_ids: tuple[int, ...] = ()
    message_ids: tuple[int, ...] = ()

    def with_all_of(self, other: Person) -> Person:
        """The same person by everything that either names."""
        return Person(
            keys=tuple(dict.fromkeys((*other.keys, *self.keys))),
            spellings=tuple(sorted({*self.spellings, *other.spellings})),
            contact_ids=tuple(sorted({*self.contact_ids, *other.contact_ids})),
            message_ids=tuple(sorted({*self.message_ids, *other.message_ids})),
        )

    @cached_property
    def needles(self) -> tuple[str, ...]:
        """Every spelling as it may stand anywhere, in lower case; what is searched for byte by byte as well."""
        found: dict[str, None] = {}
        for text in (*self.keys, *self.spellings):
            for typed in dict.fromkeys((text.lower(), text)):
                for written in (form for one in unfolded(typed) for form in (one, *unicode_domain(one))):
                    for form in _stored(written):
                        found[form.lower()] = None
                        if not form.isascii():  # of bytes none but ASCII letters are found in another case
                            found[form] = None
        return tuple(found)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What a mention is as a whole: each needle, and the name of a file that is called so."""
        return tuple(needle + ending for needle in self.needles for ending in ENDINGS)

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """Linear-time expressions, so without look-around: group 1 before, group 2 after a mention. There are several
        where a batch names hundreds who were forgotten."""
        needles = [re.escape(needle).replace("\\ ", " ") for needle in self.needles]
        return tuple(_whole(part) for part in _alternatives(needles))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Expressions for the phone numbers as people write them, with or without country and trunk prefix."""
        forms = [_written(key) for key in self.keys if channel_of(key) == "phone"]
        return tuple(rf"(?:^|[^\d])(?:{part})(?:$|[^\d])" for part in _alternatives(forms))

    @cached_property
    def folded(self) -> tuple[str, ...]:
        """What a cell that holds an e-mail address of theirs holds at least, once it is lower-cased."""
        return tuple({key.rpartition("@")[0] for key in self.keys if channel_of(key) == "email"})

    @cached_property
    def endings(self) -> tuple[str, ...]:
        """The last six digits of their numbers."""
        return tuple({key[-6:] for key in self.keys if channel_of(key) == "phone"})


def _stored(text: str) -> Iterable[str]:
    """How programs write a text down: plainly, in a URL, in a quoted field of a CSV, in JSON."""
    yield from (text, text.replace("@", "%40"), quote(text, safe=""), text.replace('"', '""'))
    yield from (json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (False, True))


def _whole(part: str, word: str = WORD) -> str:
    endings = "|".join(map(re.escape, ENDINGS[1:]))
    return rf"(?i)(^|[^{word}._+-])(?:{part})(?:{endings})?($|[^{word}._-]|[._-]+(?:$|[^{word}._-]))"


def _alternatives(forms: Sequence[str]) -> Iterable[str]:
    return ("|".join(forms[at : at + _AT_ONCE]) for at in range(0, len(forms), _AT_ONCE))


def unfolded(address: str) -> tuple[str, ...]:
    """The address, and as it may stand in what was typed: a key has ss for ß."""
    local, at, domain = address.rpartition("@")
    return tuple(dict.fromkeys((address, local.replace("ss", "ß") + at + domain)))


def unicode_domain(address: str) -> Iterable[str]:
    local, at, domain = address.rpartition("@")
    if at and "xn--" in domain:
        try:
            yield f"{local}@{idna.decode(domain)}"
        except idna.IDNAError:
            return


def _written(number: str) -> str:
    import phonenumbers  # its tables take a while to load

    parsed = phonenumbers.parse(number)
    country, national = str(parsed.country_code), phonenumbers.national_significant_number(parsed)
    return rf"(?:(?:\+|00)?{country})?{_GAP}0?{_GAP}" + _GAP.join(national)


# ---------------------------------------------------------------- mentions


def text_of(name: str, kind: pl.DataType) -> pl.Expr | None:
    """A column's text, null where it has none; None for a column that cannot hold any."""
    if kind == pl.String:
        return pl.col(name)
    if kind == pl.Binary:
        return pl.col(name).cast(pl.String, strict=False)
    if kind == pl.List(pl.String):
        return pl.col(name).list.join("\x1f", ignore_nulls=True)
    if isinstance(kind, pl.Struct):
        return pl.col(name).struct.json_encode()
    return None


def mentions(person: Person, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """Whether any text of a row mentions the person."""
    texts = [text for name, kind in schema.items() if (text := text_of(name, kind)) is not None]
    return pl.any_horizontal(pl.lit(False), *(_mentioned(person, text) for text in texts))


def _mentioned(person: Person, text: pl.Expr) -> pl.Expr:
    if not person.needles:
        return pl.lit(False)
    return text.map_batches(partial(_mentioning, person=person), return_dtype=pl.Boolean, is_elementwise=True)


def _mentioning(texts: pl.Series, person: Person) -> pl.Series:
    """Whether each text mentions the person; null does not.

    Of thousands who are named by thousands of rows, each row would be read by each of many expressions. So every needle
    is first replaced by one character, which one expression finds; what it does not find, the others decide.
    """
    text, rows = pl.col("text"), texts.to_frame("text").with_row_index("row")
    # the expressions read only what the cheap test lets through
    rows = rows.filter(text.str.contains_any(list(person.needles), ascii_case_insensitive=True))
    hits: list[pl.Series] = []
    if rows.height:
        short_for = dict.fromkeys(sorted(person.needles, key=len, reverse=True), _STAND_IN)
        short = text.str.replace_many(short_for, ascii_case_insensitive=True, leftmost=True)
        found = short.str.contains(_whole(_STAND_IN, WORD + _STAND_IN)) & ~text.str.contains(_STAND_IN, literal=True)
        rows = rows.with_columns(found=found)
        hits.append(rows.filter("found")["row"])
        rest = rows.filter(~pl.col("found"))
        hits.append(rest.filter(any_of(text, person.patterns))["row"] if rest.height else rest["row"])
    every = pl.int_range(texts.len(), dtype=pl.UInt32, eager=True)
    return every.is_in(pl.concat([every.clear(), *hits]).implode()).alias(texts.name)


def any_of(text: pl.Expr, patterns: Iterable[str]) -> pl.Expr:
    """Whether a text matches one of these expressions."""
    return pl.any_horizontal(pl.lit(False), *(text.str.contains(pattern).fill_null(False) for pattern in patterns))


def masked(person: Person, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """The text columns with every mention masked; what mentions nobody stays as it is."""
    columns = []
    for name, kind in schema.items():
        text = text_of(name, kind)
        if text is None:
            continue
        if kind == pl.String and name != "phone" and person.needles:
            clean = text.map_batches(partial(_cleaned, person=person), return_dtype=pl.String, is_elementwise=True)
            columns.append(clean.alias(name))
            continue
        hit = _mentioned(person, text)
        if name == "phone":
            clean = pl.lit(None, kind)  # stars are no number
        elif isinstance(kind, pl.Struct):
            clean = _without(person, pl.when(hit).then(text)).str.json_decode(kind)
        elif kind == pl.List(pl.String):
            clean = pl.when(hit).then(pl.col(name)).list.eval(_without(person, pl.element()))
        else:
            clean = _without(person, pl.when(hit).then(text)).cast(kind)
        columns.append(pl.when(hit).then(clean).otherwise(pl.col(name)).alias(name))
    return columns


def _cleaned(texts: pl.Series, person: Person) -> pl.Series:
    """Texts with every mention masked; those that mention nobody, which are most, as they are."""
    hits = _mentioning(texts, person)
    if not hits.any():
        return texts
    frame = pl.DataFrame({"text": texts, "hit": hits})
    clean = _without(person, pl.when("hit").then("text"))
    return frame.select(pl.when("hit").then(clean).otherwise("text")).to_series().alias(texts.name)


def _without(person: Person, text: pl.Expr) -> pl.Expr:
    """Twice: of two mentions with one character between them the first takes it."""
    mark = "${1}" + MASK + "${2}"
    for pattern in person.patterns:
        text = text.str.replace_all(pattern, mark).str.replace_all(pattern, mark)
    return text


def mask_text(person: Person, text: str) -> str:
    """A text with every mention masked."""
    frame = pl.DataFrame({"text": [text]}, schema={"text": pl.String})
    return str(frame.select(masked(person, frame.schema))["text"][0])


def text_mentions(person: Person, text: str) -> bool:
    """Whether a text mentions the person."""
    frame = pl.DataFrame({"text": [text]}, schema={"text": pl.String})
    return bool(frame.select(mentions(person, frame.schema)).item())
