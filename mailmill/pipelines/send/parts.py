"""Subject, text and HTML of a message: pieces encoded once with slots between, or Jinja2 where that is not enough."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import Template, nodes
from markupsafe import escape

from mailmill.errors import TerminalError
from mailmill.pipelines.send import mime
from mailmill.pipelines.target.anchors import anchors
from mailmill.pipelines.target.templates import Kind, environment
from mailmill.pipelines.target.templates import compile as compile_template

MISSING = b"\x02"  # what the frozen audience holds where a contact has no value
SOFT = b"=\r\n"
_KNOWN = 50_000  # values remembered: first names and cities repeat
_JINJA = re.compile(r"(\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\})", re.DOTALL)
_TEXT_URL = re.compile(r"https?://[^\s<>\"'{}]+")
_END_OF_BODY = re.compile(r"</body\s*>", re.IGNORECASE)
_PIXEL = '<img src="{{ _token_1 }}" alt="" width="1" height="1" style="display:none">'
_TOKEN = re.compile(r"_token_(\d+)")  # 0 unsubscribe, 1 the pixel, n + 2 link n


class NoValue(TerminalError):
    """A merge field that has to be printed has no value."""


class Part(Protocol):
    """Text or HTML."""

    def body(self, values: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
        """In quoted-printable. Raises: NoValue, or whatever Jinja2 raises."""
        ...


class Subject(Protocol):
    def line(self, values: Sequence[bytes]) -> bytes:
        """The header line with its CRLF. Raises: NoValue, ValueError for what would break the header."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a merge value goes. `default` stands in for a missing value, with `empty` also for an empty one."""

    field: int
    default: str | None = None
    empty: bool = False

    def pick(self, value: bytes) -> bytes:
        if value == MISSING or (self.empty and not value):
            if self.default is None:
                raise NoValue(f"merge field {self.field} has no value")
            return self.default.encode()
        return value


@dataclass(frozen=True, slots=True)
class TokenSlot:
    number: int


Piece = str | Slot | TokenSlot


def compile_part(kind: Kind, content: Mapping[str, Any]) -> Part:
    source = _tracked_html(content) if kind == "html" else _tracked_text(content)
    urls = _url_prefixes(content)
    found = _pieces(kind, source, content, urls)
    if found is None:
        return _Rendered(compile_template(kind, source, place=kind), content, urls)
    return _Joined(kind, found)


def compile_subject(content: Mapping[str, Any]) -> Subject:
    source = str(content["subject"])
    found = _pieces("text", source, content, ())
    if found is None:
        return _RenderedSubject(compile_template("text", source, place="subject"), content)
    return _JoinedSubject(found)


# ---------------------------------------------------------------- sources with our links in them


def _url_prefixes(content: Mapping[str, Any]) -> tuple[str, ...]:
    """What stands before each token, by its number."""
    base = str(content["public_url"]).rstrip("/")
    return (f"{base}/u/", f"{base}/o/", *[f"{base}/c/"] * len(content["links"]))


def _tracked_html(content: Mapping[str, Any]) -> str:
    """The HTML source whose links go through us, with the pixel at its end."""
    source, links = str(content["html"]), {url: number for number, url in enumerate(content["links"])}
    for anchor in reversed(anchors(source)):
        if not anchor.dynamic and anchor.url in links:
            source = f"{source[: anchor.start]}{{{{ _token_{links[anchor.url] + 2} }}}}{source[anchor.end :]}"
    ends = list(_END_OF_BODY.finditer(source))
    at = ends[-1].start() if ends else len(source)
    return source[:at] + _PIXEL + source[at:]


def _tracked_text(content: Mapping[str, Any]) -> str:
    """The text source; an address that is also a link of the HTML goes through us, so that its clicks count alike."""
    links = {url: number for number, url in enumerate(content["links"])}
    chunks = _JINJA.split(str(content["text"]))  # text and Jinja2 by turns

    def tracked(chunk: str, last: bool) -> str:
        def click(found: re.Match[str]) -> str:
            url = found[0].rstrip(".,;:!?)")
            whole = last or found.end() < len(chunk)  # else it goes on with a merge field
            return f"{{{{ _token_{links[url] + 2} }}}}{found[0][len(url) :]}" if whole and url in links else found[0]

        return _TEXT_URL.sub(click, chunk)

    end = len(chunks) - 1
    return "".join([chunk if at % 2 else tracked(chunk, at == end) for at, chunk in enumerate(chunks)])


# ---------------------------------------------------------------- pieces


def _pieces(kind: Kind, source: str, content: Mapping[str, Any], urls: Sequence[str]) -> list[Piece] | None:
    """A template as text and slots; None when it does more than print fields."""
    out: list[Piece] = []
    for node in environment(kind).parse(source).body:
        if not isinstance(node, nodes.Output):
            return None
        for child in node.nodes:
            found = _piece(child, kind, content, urls)
            if found is None:
                return None
            out += found
    return out


def _piece(node: nodes.Node, kind: Kind, content: Mapping[str, Any], urls: Sequence[str]) -> list[Piece] | None:
    shown = (lambda text: str(escape(text))) if kind == "html" else str
    if isinstance(node, nodes.TemplateData):
        return [node.data]
    name, default, empty = _printed(node)
    if name in content["merge_fields"]:
        return [Slot(content["merge_fields"].index(name), default, empty)]
    if name in ("postal_address", "tenant_name"):
        return [shown(str(content[name]))]
    if name == "unsubscribe_url" and urls:
        return [shown(urls[0]), TokenSlot(0)]
    token = _TOKEN.fullmatch(name)
    if token and urls:
        return [shown(urls[int(token[1])]), TokenSlot(int(token[1]))]
    return None


def _printed(node: nodes.Node) -> tuple[str, str | None, bool]:
    """Name, default and whether the default also stands for an empty value; no name when it is none of these."""
    match node:
        case nodes.Name():
            return node.name, None, False
        case nodes.Filter(
            name="default" | "d", node=nodes.Name() as inner, args=[nodes.Const(value=str() as default), *rest],
            kwargs=[], dyn_args=None, dyn_kwargs=None,
        ):  # fmt: skip
            if not rest:
                return inner.name, default, False
            if len(rest) == 1 and isinstance(rest[0], nodes.Const) and isinstance(rest[0].value, bool):
                return inner.name, default, rest[0].value
    return "", None, False


class _Joined:
    """Pieces in quoted-printable. A slot stands alone on its line, between soft breaks, whatever its value."""

    def __init__(self, kind: Kind, pieces: Sequence[Piece]) -> None:
        self._frame: list[bytes] = []
        self._fields: list[tuple[int, Slot]] = []
        self._tokens: list[tuple[int, int]] = []
        self._escape = kind == "html"
        self._known: dict[bytes, bytes] = {}
        text = ""
        for piece in pieces:
            if isinstance(piece, str):
                text += piece
                continue
            self._frame += [(SOFT if self._frame else b"") + mime.quoted_printable(text) + SOFT, b""]
            text, place = "", len(self._frame) - 1
            if isinstance(piece, Slot):
                self._fields.append((place, piece))
            else:
                self._tokens.append((place, piece.number))
        self._frame.append((SOFT if self._frame else b"") + mime.quoted_printable(text))

    def body(self, values: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
        frame = self._frame.copy()
        for place, slot in self._fields:
            frame[place] = self._value(slot.pick(values[slot.field]))
        for place, number in self._tokens:
            frame[place] = tokens[number]
        return b"".join(frame)

    def _value(self, value: bytes) -> bytes:
        if value.isalnum() and len(value) <= 70:  # ASCII letters and digits: as they are
            return value
        done = self._known.get(value)
        if done is None:
            shown = str(escape(value.decode("utf-8", "replace"))).encode() if self._escape else value
            done = mime.quoted_value(shown)
            if len(self._known) < _KNOWN and len(value) < 200:
                self._known[value] = done
        return done


class _JoinedSubject:
    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = [piece for piece in pieces if not isinstance(piece, TokenSlot)]
        self._known: dict[bytes, bytes] = {}
        fixed = all(isinstance(piece, str) for piece in self._pieces)
        self._line = _subject_line("".join(str(piece) for piece in self._pieces)) if fixed else None

    def line(self, values: Sequence[bytes]) -> bytes:
        if self._line is not None:
            return self._line
        key = b"\x1f".join(values)
        known = self._known.get(key)
        if known is not None:
            return known
        texts = [p if isinstance(p, str) else p.pick(values[p.field]).decode("utf-8", "replace") for p in self._pieces]
        line = _subject_line("".join(texts))
        if len(self._known) < _KNOWN and len(key) < 200:
            self._known[key] = line
        return line


# ---------------------------------------------------------------- Jinja2 for each recipient


def _context(content: Mapping[str, Any], values: Sequence[bytes]) -> dict[str, str]:
    shown = {name: str(content[name]) for name in ("postal_address", "tenant_name")}
    for name, value in zip(content["merge_fields"], values, strict=True):
        if value != MISSING:
            shown[name] = value.decode("utf-8", "replace")
    return shown


class _Rendered:
    def __init__(self, template: Template, content: Mapping[str, Any], urls: Sequence[str]) -> None:
        self._template, self._content, self._urls = template, content, urls

    def body(self, values: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
        context = _context(self._content, values)
        for number, (prefix, token) in enumerate(zip(self._urls, tokens, strict=True)):
            context[f"_token_{number}"] = prefix + token.decode()
        context["unsubscribe_url"] = context["_token_0"]
        return mime.quoted_printable(self._template.render(context))


class _RenderedSubject:
    def __init__(self, template: Template, content: Mapping[str, Any]) -> None:
        self._template, self._content = template, content

    def line(self, values: Sequence[bytes]) -> bytes:
        return _subject_line(self._template.render(_context(self._content, values)))


def _subject_line(text: str) -> bytes:
    if mime.breaks_header(text):
        raise ValueError("a control character in the subject")
    return mime.unstructured("Subject", text)
