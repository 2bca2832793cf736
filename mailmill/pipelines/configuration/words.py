"""What the values of a project's YAML files have to look like, and what every document of them is."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from mailmill.pipelines.ingest.wordlists import countries, languages

SLUG = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")  # of text from outside ask fullmatch: $ forgives a line end
Slug = Annotated[str, StringConstraints(pattern=SLUG.pattern)]
SecretReference = Annotated[str, StringConstraints(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=998, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
DomainName = Annotated[
    str,
    StringConstraints(max_length=253, pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]$"),
]
# a name by RFC 1123, with the underscores that private networks have, or an address of IPv4 or IPv6
HOST = (
    r"^(([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?"
    r"|[0-9a-fA-F:]*:[0-9a-fA-F:.]+)$"
)
Host = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=HOST)]
Address = Annotated[str, StringConstraints(pattern=r"^[^@\s\x00-\x1f<>,;:\"()\[\]\\]{1,64}@[^@\s]+\.[^@\s.]+$")]


def service_url(url: str) -> str:
    """A URL that paths are put behind, and that logs and answers show."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("a URL is allowed that begins with http:// or https://, such as https://api.example.org")
    if "@" in parts.netloc:
        raise ValueError("a name or password has no place in a URL, which is shown; a secret is a reference")
    if "?" in url or "#" in url:
        raise ValueError("nothing may stand behind the path of the URL: no ? and no #")
    return url


ServiceUrl = Annotated[str, AfterValidator(service_url)]


def tag_slug(text: str) -> str:
    """A tag in its one form, as cells.tags writes a column of them: letters with their marks and digits of any script,
    hyphens between, in NFC; empty when it has neither."""
    plain = ""
    for char in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(char)[0]
        follows = kind == "M" and plain[-1:] not in ("", " ")  # a mark belongs to the letter before it
        plain += char if kind in "LN" or follows else " "
    return "-".join(plain.split())[:63].rstrip("-")


def _tag(text: str) -> str:
    if not text or tag_slug(text) != text:
        raise ValueError(f"{text!r} is no tag: small letters and digits of any script, hyphens between, at most 63")
    return text


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name!r} is no time zone of the tz database, such as Europe/Berlin")
    return name


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("a time needs its offset, such as 2026-12-01T09:00:00+01:00")
    return at


def _leaves_time_for_a_tick(seconds: int) -> int:
    if seconds < 120:
        raise ValueError(
            "at least 120: what is due is looked for once a minute, so with less a start that nothing is in the way of "
            "could count as missed"
        )
    return seconds


def _known_country(code: str) -> str:
    if code not in countries().values():
        raise ValueError(f"{code!r} is no country of ISO 3166-1, such as US or DE")
    return code


def _known_language(code: str) -> str:
    if code.lower() not in languages().values():
        raise ValueError(f"{code!r} is no language as contacts have it: two letters of ISO 639-1, such as de or pt")
    return code


Tag = Annotated[str, AfterValidator(_tag)]
TimeZone = Annotated[str, AfterValidator(_known_zone)]
Country = Annotated[str, AfterValidator(_known_country)]
Language = Annotated[str, AfterValidator(_known_language)]
Grace = Annotated[int, AfterValidator(_leaves_time_for_a_tick)]
AwareTime = Annotated[datetime, AfterValidator(_aware)]
# GDPR article 6 (1) a-f
LawfulBasis = Literal[
    "consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"
]  # fmt: skip
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Spec(BaseModel):
    """Unknown keys are errors: a typing mistake must not become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TenantOwned(Spec):
    tenant: Slug
    slug: Slug
