"""Templates: a small Jinja2 whose output is linear in its input, checked before the first mail.

There are no macros, no loop in a loop, no method calls beyond a short list, and nothing that repeats or pads text: so a
template that passes `check` ends, and cannot make fifty megabytes of one name. A loop runs MAX_TURNS times at most.
Values are escaped in HTML and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from jinja2 import Template, TemplateSyntaxError, Undefined, UndefinedError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mailmill.errors import Misconfigured
from mailmill.pipelines.send.mime import breaks_header
from mailmill.pipelines.target import anchors, grammar, names
from mailmill.pipelines.target.anchors import Anchor
from mailmill.pipelines.target.plain import plain_text

Kind = Literal["html", "text"]  # the subject is text

# the same for every recipient of a campaign, or made by the sender; everything else is a merge field
CONSTANTS = ("unsubscribe_url", "postal_address", "tenant_name")
REQUIRED = ("unsubscribe_url", "postal_address")
MAX_CHARACTERS = 500_000  # of one part; Gmail shows the first 102 KB
MAX_LINKS = 500
MAX_SUBJECT = 998
MAX_TURNS = 1000  # of a loop; what comes after them is not shown
MAX_RENDERED = 4_000_000  # characters
SAMPLE = "Example"

# what neither repeats nor pads, and does not switch escaping off
FILTERS = frozenset({
    "abs", "capitalize", "d", "default", "e", "escape", "first", "float", "forceescape", "int", "last", "length",
    "lower", "round", "string", "striptags", "title", "trim", "truncate", "upper", "urlencode"
})  # fmt: skip
TESTS = frozenset({
    "defined", "undefined", "none", "string", "number", "eq", "ne", "lt", "le", "gt", "ge", "equalto", "in",
    "sameas"
})  # fmt: skip
METHODS = frozenset({
    "split", "strip", "lstrip", "rstrip", "upper", "lower", "title", "capitalize", "startswith", "endswith"
})  # fmt: skip


class Missing(Undefined):
    """A merge field this contact has no value for: false in `if`, equal to nothing, an error when it is printed."""

    __slots__ = ()

    def __str__(self) -> str:
        self._fail_with_undefined_error()

    def __len__(self) -> int:
        self._fail_with_undefined_error()

    def __iter__(self) -> Iterator[Any]:
        self._fail_with_undefined_error()


class _Sandbox(ImmutableSandboxedEnvironment):
    """Attributes beginning with an underscore do not exist, and format strings reach nothing."""


@cache
def environment(kind: Kind) -> _Sandbox:
    """The environment of one kind of part. Escapes in HTML only; keeps the last line's end as it is."""
    found = _Sandbox(autoescape=kind == "html", undefined=Missing, keep_trailing_newline=True, cache_size=0)
    found.globals.clear()
    found.filters = {name: call for name, call in found.filters.items() if name in FILTERS}
    found.tests = {name: call for name, call in found.tests.items() if name in TESTS}
    return found


def parse(kind: Kind, source: str, *, place: str = "template") -> nodes.Template:
    """A part as a tree, whose loops end.

    Raises: Misconfigured with the line of a syntax error.
    """
    try:
        tree = environment(kind).parse(source)
    except TemplateSyntaxError as error:
        comment = " (`{#` begins one; in CSS write `{ #`)" if "comment tag" in str(error.message) else ""
        raise _refused(f"{error.message}{comment}", f"{place}:{error.lineno}") from None
    except RecursionError:
        raise _refused("is nested too deeply", place) from None
    for loop in tree.find_all(nodes.For):
        first = nodes.Slice(None, nodes.Const(MAX_TURNS), None)
        loop.iter = nodes.Getitem(loop.iter, first, "load", lineno=loop.lineno)
    return tree


def compiled(kind: Kind, tree: nodes.Template) -> Template:
    """A tree ready to render. Null is passed by leaving the name out, so that `default` sees it."""
    home = environment(kind)
    tree.set_environment(home)
    code = home.compile(tree)
    return Template.from_code(home, code, home.make_globals(None))


def compile(kind: Kind, source: str, *, place: str = "template") -> Template:
    """A part ready to render. Raises: Misconfigured with the line of a syntax error."""
    return compiled(kind, parse(kind, source, place=place))


def render(template: Template, values: Mapping[str, Any]) -> str:
    """What a template shows. Raises: whatever Jinja2 and its filters raise; ValueError when it becomes too long."""
    out, length = [], 0
    for piece in template.generate(values):
        out.append(piece)
        length += len(piece)
        if length > MAX_RENDERED:
            raise ValueError(f"more than {MAX_RENDERED:,} characters")
    return "".join(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFacts:
    """What a template needs and shows.

    `merge_fields` in the order they first appear (subject, html, text); `bare` are those printed somewhere without a
    `default` or an `if`, each with what stands in for it: of `{{ name or company }}` one is enough; `links` are the
    http(s) addresses that clicks are counted for; `places` are part and line (`html:12`) in which a merge field stands
    first.
    """

    merge_fields: tuple[str, ...]
    bare: frozenset[tuple[str, ...]]
    links: tuple[str, ...]
    places: Mapping[str, str] = field(default_factory=dict)


def check(subject: str, html: str, text: str) -> TemplateFacts:
    """The facts of a template that can be sent.

    Raises: Misconfigured with part and line of the first thing that is wrong.
    """
    used: dict[str, None] = {}
    bare: set[tuple[str, ...]] = set()
    places: dict[str, str] = {}
    for part, source in {"subject": subject, "html": html, "text": text}.items():
        kind: Kind = "html" if part == "html" else "text"
        check_size(part, source)
        tree = _parsed(kind, source, part)
        found, lines = names.uses(tree), names.lines(tree)
        bare |= {one for one in found.bare if not set(one) & set(CONSTANTS)}
        if part != "subject":
            _check_required(part, kind, source)
        elif found.names.keys() & set(REQUIRED):
            raise _refused("unsubscribe_url and postal_address do not belong into the subject", "subject:1")
        used |= found.names
        for name in found.names:
            places.setdefault(name, f"{part}:{lines[name]}")
        _try(kind, source, part, found)
    line = anchors.unquoted(html)
    if line is not None:
        raise _refused('a tag prints a value without quotes around it; write ="{{ … }}"', f"html:{line}")
    picture = anchors.picture_nowhere(html)
    if picture is not None:
        raise _refused(f"the picture {picture[1][:80]!r} has no address with http:// or https://", f"html:{picture[0]}")
    fields = tuple(name for name in used if name not in CONSTANTS)
    return TemplateFacts(merge_fields=fields, bare=frozenset(bare), links=links(html), places=places)


def links(html: str) -> tuple[str, ...]:
    """The addresses of `<a href>` that clicks are counted for, in their order, each once.

    An address with a merge field in it is the recipient's own and is left as it is.
    """
    return tuple(dict.fromkeys(anchor.url for anchor in checked_anchors(html) if not anchor.dynamic))


def checked_anchors(html: str) -> list[Anchor]:
    """Every `<a href>` of the HTML source that leads to the web.

    Raises: Misconfigured for one that is not http(s), or whose host depends on a merge field.
    """
    found = anchors.anchors(html)
    for anchor in found:
        if anchor.problem:
            raise _refused(f"the link {anchor.url[:80]!r} {anchor.problem}", f"html:{anchor.line}")
    if len(found) > MAX_LINKS:
        raise _refused(f"more than {MAX_LINKS} links", "html")
    return found


def check_size(part: str, source: str) -> None:
    """Raises: Misconfigured for a part that is empty or too long, or holds what no text does."""
    if not source.strip():
        raise _refused("is empty", part)
    limit = MAX_SUBJECT if part == "subject" else MAX_CHARACTERS
    if len(source) > limit:
        raise _refused(f"has {len(source):,} characters, {limit:,} are allowed", part)
    if part == "subject" and breaks_header(source):
        raise _refused("line breaks and control characters are not allowed", part)
    if "\x00" in source or "\x1f" in source:
        raise _refused("control characters are not allowed", part)


def _parsed(kind: Kind, source: str, part: str) -> nodes.Template:
    # at the very end Jinja2 takes it for text; but the pixel will stand behind it
    tree = parse(kind, f"{source} " if source.endswith("{#") else source, place=part)
    for line, begins, _ in environment(kind).lex(source):
        if begins == "raw_begin":  # what stands in it would be taken for links and merge fields
            raise _refused("{% raw %} is not allowed in a template; braces are written {{ '{{' }}", f"{part}:{line}")
    wrong = grammar.forbidden(tree, filters=FILTERS, tests=TESTS, methods=METHODS)
    wrong = wrong or grammar.changed(tree, "unsubscribe_url")
    if part == "subject" and any(breaks_header(str(one.value)) for one in grammar.printable(tree)):
        raise _refused("holds a text with a line break or a control character", part)
    if wrong is not None:
        raise _refused(wrong.message, f"{part}:{wrong.line}")
    return tree


def _check_required(part: str, kind: Kind, source: str) -> None:
    """The unsubscribe link and the postal address are seen by everybody: not in an `if`, not in a hidden element."""
    shown = names.always_shown(_parsed(kind, plain_text(source) if kind == "html" else source, part))
    for name in REQUIRED:
        if name not in shown:
            raise Misconfigured(
                f"{{{{ {name} }}}} is missing, or stands in an `if`, a comment or a hidden element, or is cut",
                place=part,
                remedy=f"Put {{{{ {name} }}}} into this part; no bulk mail may go out without it.",
            )


def _try(kind: Kind, source: str, part: str, found: names.Uses) -> None:
    """Render once with every name filled in and once with what may be missing left out: what breaks, breaks here."""
    template = compile(kind, source, place=part)
    for values in (dict.fromkeys(found.names, SAMPLE), {one[-1]: SAMPLE for one in found.bare}):
        try:
            shown = render(template, values)
        except UndefinedError as error:
            raise _refused(str(error.message), part) from None
        except Exception as error:  # a filter of Jinja may raise anything, e.g. ValueError; it is the template's fault
            raise _refused(f"cannot be rendered: {error}", part) from None
        if part == "subject" and not shown.strip():
            raise _refused("is empty when its merge fields are", part)


def _refused(message: str, place: str) -> Misconfigured:
    return Misconfigured(message, place=place)
