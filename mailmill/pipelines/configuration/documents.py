"""YAML documents -> specs, or problems that say where, which field and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mailmill.pipelines.configuration import sending, specs, words
from mailmill.pipelines.configuration.specs import KINDS, Document, TenantSpec
from mailmill.pipelines.configuration.words import TenantOwned

Position = tuple[str | int, ...]
AnySpec = TenantSpec | TenantOwned
Key = tuple[str, str, str]  # kind, tenant's slug, slug (empty for the tenant itself)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a person has to correct. `place` is a file, with its line where one is known."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawDocument:
    """One YAML document as plain values; `line` gives the line of a field, counted from 1."""

    file: str
    value: Any
    line: Callable[[Position], int] = field(repr=False, compare=False)

    def problem(self, message: str, position: Position = ()) -> Problem:
        return Problem(place=f"{self.file}:{self.line(position)}", message=message)

    def claimed(self) -> Key | None:
        """What it wants to describe, also when it does not keep to its form; None when it does not say so."""
        value = self.value if isinstance(self.value, dict) else {}
        kind, tenant, slug = value.get("kind"), value.get("tenant"), value.get("slug")
        if kind == "tenant":
            tenant, slug = slug, ""
        return (
            (kind, tenant, slug)
            if isinstance(kind, str) and isinstance(tenant, str) and isinstance(slug, str)
            else None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A document that keeps to its form."""

    spec: AnySpec
    document: RawDocument

    @property
    def key(self) -> Key:
        return key_of(self.spec)

    @property
    def place(self) -> str:
        return f"{self.document.file}:{self.document.line(())}"

    def problem(self, message: str, position: Position = ()) -> Problem:
        return self.document.problem(message, position)


def key_of(spec: AnySpec) -> Key:
    kind = str(getattr(spec, "kind"))  # noqa: B009 - every class of the union has it, their parents have not
    return (kind, spec.slug, "") if isinstance(spec, TenantSpec) else (kind, spec.tenant, spec.slug)


def name_of(key: Key) -> str:
    """As people name it: `acme` for a tenant, `acme/newsletter` for what it owns."""
    return key[1] + (f"/{key[2]}" if key[2] else "")


_DOCUMENT: TypeAdapter[Any] = TypeAdapter(Document)
SPECS: dict[str, type[words.Spec]] = {
    get_args(spec.model_fields["kind"].annotation)[0]: spec for spec in get_args(get_args(Document)[0])
}
_WORDS = {  # a pattern in words
    words.Slug: "lower-case letters, digits and hyphens are allowed, at most 63",
    words.SecretReference: "a secret is a reference, env:NAME or file:path, never the value itself",
    words.FieldName: "a field's name has lower-case letters, digits and underscores and begins with a letter",
    words.Line: "one line of text is allowed, without line breaks and control characters",
    words.DomainName: "a domain name is allowed, in lower case and as punycode, such as mail.example.org",
    words.Host: "the name of a host is allowed, as punycode, or its address, such as smtp.example.org or 192.0.2.1",
    words.Address: "an address is allowed, such as news@example.org",
}
_BY_PATTERN = {get_args(kind)[1].pattern: words for kind, words in _WORDS.items()}


def validate(documents: Iterable[RawDocument]) -> tuple[list[Declared], list[Problem]]:
    """Specs of the documents that keep to their form, and every problem of those that do not."""
    declared: list[Declared] = []
    problems: list[Problem] = []
    for document in documents:
        if not isinstance(document.value, dict):
            problems.append(document.problem("a document is a list of `field: value`, beginning with `kind:`"))
            continue
        try:
            declared.append(Declared(spec=_DOCUMENT.validate_python(document.value), document=document))
        except ValidationError as error:
            kind = document.value.get("kind")
            problems += [_explain(document, str(kind), found) for found in error.errors(include_url=False)]
    problems += _twice(declared)
    return declared, problems


def _twice(declared: list[Declared]) -> Iterator[Problem]:
    first: dict[Key, Declared] = {}
    for one in declared:
        if one.key in first:
            yield one.problem(f"{one.key[0]} {name_of(one.key)} stands at {first[one.key].place} already")
        first.setdefault(one.key, one)


def _explain(document: RawDocument, kind: str, error: ErrorDetails) -> Problem:
    """One error of pydantic in our words: the field first, then what is allowed."""
    position = tuple(error["loc"])
    if position[:1] == (kind,):
        position = position[1:]  # the union puts the kind in front
    shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in position).removeprefix(".")
    message = _message(kind, position, error)
    text = f"{shown}: {message}" if shown else message
    if error["type"] == "missing":
        position = position[:-1]
    return document.problem(text, position)


def _message(kind: str, position: Position, error: ErrorDetails) -> str:
    context: dict[str, Any] = error.get("ctx") or {}
    match error["type"]:
        case "union_tag_not_found":
            return f"kind: is missing; allowed: {', '.join(KINDS)}"
        case "union_tag_invalid":
            return (
                f"kind: {context['tag']!r} is unknown{_near(str(context['tag']), KINDS)}; allowed: {', '.join(KINDS)}"
            )
        case "extra_forbidden":
            allowed = _fields(kind, position[:-1])
            return f"is unknown{_near(str(position[-1]), allowed)}; allowed: {', '.join(allowed)}"
        case "missing":
            return f"is missing from this {kind}"
        case "literal_error":
            return f"{error['input']!r} is not allowed; allowed: {context['expected']}"
        case "string_pattern_mismatch":
            return _BY_PATTERN.get(context["pattern"], f"does not match {context['pattern']}")
        case "datetime_from_date_parsing" | "datetime_parsing" | "datetime_type":
            return "a time with its offset is allowed, such as 2026-12-01T09:00:00+01:00"
        case "time_parsing" | "time_type":
            return 'a time of day is allowed, such as "08:00"'
        case "too_short":
            return "one at least is needed here"
        case "value_error":
            return str(context["error"])
        case _:
            said = error["msg"]
            return said[:1].lower() + said[1:]


def _fields(kind: str, position: Position) -> tuple[str, ...]:
    """The fields allowed at a position: of the document, or of what is in it."""
    inner: dict[tuple[str | int, ...], type[words.Spec]] = {
        ("window",): specs.WindowSpec, ("consent",): specs.ConsentPolicy, ("dkim",): sending.DkimSpec,
        ("variants",): specs.VariantSpec, ("merge",): specs.MergeSpec,
    }  # fmt: skip
    spec = inner.get(position[:1], SPECS[kind])
    return tuple(spec.model_fields)


def _near(word: str, allowed: Iterable[str]) -> str:
    close = get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
