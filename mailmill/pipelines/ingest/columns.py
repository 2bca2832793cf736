"""Which column of a source is what: by the source's own mapping, else by the names people give such columns."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.masks import mask

# field -> headers, written as `_slug` writes them, the surest first
ALIASES: dict[str, tuple[str, ...]] = {
    "email": ("email", "e_mail", "mail", "email_address", "e_mail_address", "emailaddress", "e_mail_adresse",
              "email_adresse", "mailadresse", "emailadresse", "adresse_email", "adresse_e_mail", "courriel", "correo",
              "correo_electronico", "primary_email", "contact_email", "work_email", "e_mail_1_value"),
    "phone": ("phone", "phone_number", "telephone", "tel", "mobile", "mobile_phone", "cell", "cell_phone", "telefon",
              "telefonnummer", "handy", "mobil", "telefono", "portable", "msisdn", "whatsapp", "phone_1_value"),
    "name": ("name", "full_name", "fullname", "display_name", "contact_name", "contact", "nom_complet",
             "nombre_completo", "ansprechpartner"),
    "first_name": ("first_name", "firstname", "given_name", "forename", "vorname", "prenom", "nombre"),
    "last_name": ("last_name", "lastname", "surname", "family_name", "nachname", "familienname", "nom", "apellido",
                  "apellidos"),
    "language": ("language", "lang", "locale", "sprache", "langue", "idioma"),
    "category": ("category", "kategorie", "categorie", "categoria", "topic", "rubrik"),
    "country": ("country", "country_code", "land", "pays", "pais", "staat"),
    "time_zone": ("time_zone", "timezone", "tz", "zeitzone"),
    "tags": ("tags", "tag", "labels"),
    "seen_at": ("found_at", "seen_at", "last_seen", "updated_at", "modified_at", "created_at"),
}  # fmt: skip
_STREETS = ("address", "mail_address")  # or e-mail, where no other column is: each cell says which
MOST = 2_000  # columns of rows each of which names its own
_LATIN = str.maketrans({"ø": "o", "æ": "ae", "œ": "oe", "đ": "d", "ð": "d", "ł": "l", "ı": "i", "þ": "th"})
_PLAUSIBLE_NUMBER = re.compile(r"^'?\+(?:[ \u00a0()/.-]*[0-9]){7,15}$")
_PLAUSIBLE_ADDRESS = re.compile(r"^(?:[^<>@]*<)?[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+$")  # Ann <a@x.org, too
_OF_A_PERSON = re.compile(r"[^\s@<>()\"',;:]+@[^\s@<>()\"',;:]+|[+0-9](?:[ \u00a0()/.-]{0,2}[0-9]){8,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMap:
    """Where each field is: known fields and custom fields, each -> header; and what was odd about it."""

    known: dict[str, str]
    custom: dict[str, str]
    street: str | None = None  # custom field of those cells of the e-mail column in which there is no @
    notes: tuple[str, ...] = ()


def headers(cells: Sequence[str]) -> list[str]:
    """Names of columns, unique and not empty: 'Note', 'Note' -> 'Note', 'Note (2)'; '' -> 'column 3'."""
    names: list[str] = []
    taken: set[str] = set()
    counts: dict[str, int] = {}  # thousands may have one name
    for number, cell in enumerate(cells, 1):
        text = re.sub(r"[\x00-\x1f\x7f\u200b\ufeff]+", " ", cell).strip()[:200] or f"column {number}"
        name = text
        while name in taken:
            counts[text] = counts.get(text, 1) + 1
            name = f"{text} ({counts[text]})"
        taken.add(name)
        names.append(name)
    return names


def looks_like_data(cells: Sequence[str]) -> Literal["email", "phone"] | None:
    """What of a contact a first line has that is no header: an address, or a number with its +."""
    if any(_PLAUSIBLE_ADDRESS.match(cell.strip().strip("<>")) for cell in cells):
        return "email"
    return "phone" if any(_PLAUSIBLE_NUMBER.match(cell.strip()) for cell in cells) else None


def mapped(names: Sequence[str], wanted: Mapping[str, str], *, place: str, few: bool = False) -> ColumnMap:
    """Find the fields among a source's columns.

    In:     names of the columns; wanted: field -> header, as the operator maps them (case does not matter); few: so
            few rows, each with the fields it has, that what all of them lack is not gone; no other column is it then.
    Raises: Misconfigured when a mapped column is gone, or when no column holds an address or a phone number:
            the source changed its columns, and nothing of it has been taken in.
    """
    shown = _shown(names[:30])
    by_slug: dict[str, list[str]] = {}
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_slug.setdefault(_slug(name), []).append(name)
        by_name.setdefault(_any_script(name), []).append(name)
    known: dict[str, str] = {}
    custom: dict[str, str] = {}
    for field, header in wanted.items():
        column = header if header in names else next(iter(by_name.get(_any_script(header), ())), None)
        if column is None and few:
            continue
        if column is None:
            raise Misconfigured(
                f"there is no column {header!r}, which the source's `columns` names for {field}; there are: {shown}",
                place=place,
                remedy="Correct `columns` of the source, or the file's header. Nothing of it was taken in.",
            )
        (known if field in ALIASES else custom)[field] = column
    taken = set(known.values()) | set(custom.values())
    for field, aliases in ALIASES.items():
        candidates = [name for alias in aliases for name in by_slug.get(alias, ()) if name not in taken]
        if field not in wanted and candidates:  # what is mapped is nowhere else, also where few rows just lack it
            known[field] = candidates[0]
            taken.add(candidates[0])
    either = (name for alias in _STREETS for name in by_slug.get(alias, ()) if name not in taken)
    street = None if "email" in known.keys() | wanted.keys() else next(either, None)
    if street is not None:
        known["email"] = street  # and a custom field below
    if not few and not known.keys() & {"email", "phone"}:
        raise Misconfigured(
            f"no column holds an e-mail address or a phone number; there are: {shown}",
            place=place,
            remedy="Name it in the source, for example `columns: {email: Kontakt}`, or take away the lines above the "
            "names of the columns. Nothing of it was taken in.",
        )
    notes = []
    counts: dict[str, int] = {}  # thousands may come to one name
    for name in names:
        if name not in taken:
            field = _free(_field_name(name), custom, counts)
            custom[field] = name
            if _lost(name):
                notes.append(f"the column {name!r} is kept as {field}; `columns` of the source gives it another name")
            elif re.search(r"\(\d+\)$", name):
                notes.append(f"the column {name!r} has the name of another; it is kept as {field}")
    other = next((field for field, name in custom.items() if name == street), None)
    return ColumnMap(known=known, custom=custom, street=other, notes=tuple(notes))


def unreadable(names: Sequence[str], wanted: Mapping[str, str], *, few: bool) -> str | None:
    """Why these columns cannot be read by what the operator maps, as `mapped` says it; None when they can. What is
    empty has no columns, and can."""
    try:
        mapped(names, wanted, place="", few=few) if names else None
    except Misconfigured as error:
        return error.message
    return None


def united(names: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """The columns of few rows, with those of the batch before, which these rows may just lack."""
    return tuple(dict.fromkeys((*names, *before)))[: max(len(names), MOST)]


def changed(before: Sequence[str], after: Sequence[str]) -> str | None:
    """What is different about a source's columns since its last batch, in a sentence; None when nothing is."""
    gone = [name for name in before if name not in after]
    new = [name for name in after if name not in before]
    if not before or not after or not (gone or new):  # an empty file has no columns that could be others
        return None
    parts = [f"gone: {_shown(gone)}"] if gone else []
    parts += [f"new: {_shown(new)}"] if new else []
    return "the columns are not those of the last time; " + "; ".join(parts)


def _shown(names: Sequence[str]) -> str:
    """Names for a message, which is kept where no address may be: a line without names may have been taken for them."""
    return ", ".join(_OF_A_PERSON.sub(lambda found: mask(found[0]), name) for name in names)


def _slug(name: str) -> str:
    """What ASCII can say of a name: 'E-Mail Adresse' -> 'e_mail_adresse', 'Prénom' -> 'prenom', 'Город' -> ''."""
    plain = unicodedata.normalize("NFKD", name.casefold().translate(_LATIN)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.casefold()).strip("_")


def _any_script(name: str) -> str:
    """As `_slug`, with the letters that ASCII has not: 'E-Mail (Работа)' -> 'e_mail_работа'."""
    if not _lost(name):
        return _slug(name) or name
    kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in _letters(name))
    return "_".join("".join(kept).split()) or name


def _lost(name: str) -> bool:
    """Whether ASCII has nothing of a name, or not all of its letters."""
    return not _slug(name) or any(
        char.isalnum() and not char.isascii() for char in unicodedata.normalize("NFKD", _letters(name))
    )


def _letters(name: str) -> str:
    return unicodedata.normalize("NFKC", name.casefold()).translate(_LATIN)


def _field_name(name: str) -> str:
    """A custom field's name as templates and segments write it (specs.FieldName).

    Of letters that ASCII has not, a checksum remains: the field follows its header, not the column's place.
    """
    slug = _slug(name)[:60]
    if _lost(name):
        slug = f"{slug[:50] or 'field'}_{zlib.crc32(_any_script(name).encode()):08x}"
    return slug if slug[0].isalpha() else f"f_{slug}"


def _free(field: str, taken: Mapping[str, str], counts: dict[str, int]) -> str:
    """The field, or with a number where it is taken; no longer than specs.FieldName. In: counts, of those before."""
    name = field
    while name in taken or name in ALIASES:
        counts[field] = counts.get(field, 1) + 1
        name = f"{field[:57]}_{counts[field]}"
    return name
