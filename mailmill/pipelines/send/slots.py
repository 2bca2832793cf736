"""A template as pieces: text that is the same for everybody, and slots for what is not.

Most slots print a merge field, and need no Jinja2. Any other expression, condition or loop is a block: Jinja2 renders
it once for each combination of the merge fields it names, since countries, languages and first names repeat. Its long
texts are the same each time, so it shows but their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jinja2 import Template, nodes
from markupsafe import escape

from mailmill.errors import TerminalError
from mailmill.pipelines.target import templates
from mailmill.pipelines.target.templates import Kind

MISSING = b"\x02"  # what the frozen audience holds where a contact has no value
MARK = "\0"  # around a number in what a block renders: a token's, or below 0 a text's; no template or value holds it
LONG = 1000  # characters of a text that a block shows by its number; a subject has none so long
_TOKEN = re.compile(r"_token_(\d+)")


class NoValue(TerminalError):
    """A merge field that has to be printed has no value. `field`: its place among the campaign's."""

    def __init__(self, field: int) -> None:
        super().__init__(f"merge field {field} has no value")
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a campaign's templates may name. `urls`: what stands before each token's tail, by its number."""

    fields: Sequence[str]
    constants: Mapping[str, str]  # the same for every recipient
    urls: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a merge value goes. `default` stands in for a missing value, with `empty` also for an empty one."""

    field: int
    default: bytes | None = None
    empty: bool = False

    def pick(self, values: Sequence[bytes]) -> bytes:
        value = values[self.field]
        if value == MISSING or (self.empty and not value):
            if self.default is None:
                raise NoValue(self.field)
            return self.default
        return value


@dataclass(frozen=True, slots=True)
class Token:
    """Where the tail of a token goes."""

    number: int


@dataclass(frozen=True, slots=True)
class Block:
    """What Jinja2 renders. `fields` are those it names; it depends on nothing else."""

    template: Template = field(repr=False)
    fields: tuple[int, ...]
    names: Names = field(repr=False)
    fixed: Mapping[str, str] = field(repr=False)  # of what it names, that which is the same for everybody
    texts: tuple[str, ...] = field(default=(), repr=False)  # -1 is the first one's number, -2 the next one's

    def key(self, values: Sequence[bytes]) -> bytes:
        """The same for recipients who get the same."""
        return b"\x1f".join([values[at] for at in self.fields])

    def text(self, values: Sequence[bytes]) -> str:
        """What it shows, with MARK number MARK for each token and long text. Raises: whatever Jinja2 raises."""
        context = dict(self.fixed)
        for at in self.fields:
            if values[at] != MISSING:
                context[self.names.fields[at]] = values[at].decode("utf-8", "replace").replace(MARK, "")
        return templates.render(self.template, context)


Piece = str | Slot | Token | Block


def pieces(kind: Kind, source: str, names: Names) -> list[Piece]:
    """A template in pieces, in its order.

    Raises: Misconfigured with the line of a syntax error.
    """
    tree = templates.parse(kind, source)
    others = [node for node in tree.body if not isinstance(node, nodes.Assign | nodes.For)]
    if any(_has(node, nodes.Assign, nodes.AssignBlock) for node in others):
        # what an `if` sets may be used anywhere behind it; a loop keeps its own
        return [_block(kind, tree.body, names)]
    out: list[Piece] = []
    sets: list[nodes.Assign] = []  # so far; they show nothing, so each stands with what uses it
    for node in tree.body:
        if isinstance(node, nodes.Assign):
            sets.append(node)
        elif isinstance(node, nodes.Output):
            for child in node.nodes:
                out += _printed(kind, child, names, sets)
        else:
            out.append(_block(kind, [*_used(node, sets), node], names))
    return out


def _has(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    """Whether it is of one of these kinds, or anything in it is."""
    return isinstance(node, kinds) or next(node.find_all(kinds), None) is not None


def _used(node: nodes.Node, sets: Sequence[nodes.Assign]) -> list[nodes.Node]:
    """Those of the sets that it depends on, also by way of others."""
    used = {name.name for name in _names(node)} if sets else set()
    found: list[nodes.Node] = []
    for one in reversed(sets):
        if any(name.name in used for name in _names(one.target)):
            used |= {name.name for name in _names(one.node)}
            found.append(one)
    return found[::-1]


def _printed(kind: Kind, node: nodes.Node, names: Names, sets: Sequence[nodes.Assign]) -> list[Piece]:
    if isinstance(node, nodes.TemplateData):
        return [node.data]
    output = nodes.Output([node], lineno=node.lineno)
    if used := _used(node, sets):
        return [_block(kind, [*used, output], names)]
    name, default, empty = _plain(node)
    if name in names.fields:
        shown = None if default is None else default.encode()
        return [Slot(list(names.fields).index(name), shown, empty)]
    if name in names.constants:
        return [_shown(kind, names.constants[name])]
    token = _token(name, names)
    if token is not None:
        return [_shown(kind, names.urls[token]), Token(token)]
    return [_block(kind, [output], names)]


def _token(name: str, names: Names) -> int | None:
    """The number of the token that a name stands for."""
    found = _TOKEN.fullmatch("_token_0" if name == "unsubscribe_url" else name)
    return int(found[1]) if found and names.urls else None


def _shown(kind: Kind, text: str) -> str:
    return str(escape(text)) if kind == "html" else text


def _plain(node: nodes.Node) -> tuple[str, str | None, bool]:
    """Name, default and whether the default also stands for an empty value; no name when it is none of these."""
    match node:
        case nodes.Name():
            return node.name, None, False
        case nodes.Or(left=nodes.Name() as inner, right=nodes.Const(value=str() as default)):
            return inner.name, default, True
        case nodes.Filter(
            name="default" | "d", node=nodes.Name() as inner, args=[nodes.Const(value=str() as default), *rest],
            kwargs=[], dyn_args=None, dyn_kwargs=None,
        ):  # fmt: skip
            if not rest:
                return inner.name, default, False
            if len(rest) == 1 and isinstance(rest[0], nodes.Const) and isinstance(rest[0].value, bool):
                return inner.name, default, rest[0].value
    return "", None, False


def _block(kind: Kind, body: list[nodes.Node], names: Names) -> Block:
    used = {name.name for node in body for name in _names(node)}
    fields = tuple(at for at, name in enumerate(names.fields) if name in used)
    fixed = {name: text for name, text in names.constants.items() if name in used}
    fixed |= {name: f"{names.urls[n]}{MARK}{n}{MARK}" for name in used if (n := _token(name, names)) is not None}
    tree, texts = nodes.Template(body, lineno=1), []
    changed = _has(tree, nodes.FilterBlock, nodes.AssignBlock, nodes.CallBlock)
    for text in tree.find_all(nodes.TemplateData):
        if len(text.data) >= LONG and not changed:  # what a filter may take has to be there
            texts.append(text.data)
            text.data = f"{MARK}{-len(texts)}{MARK}"
    return Block(templates.compiled(kind, tree), fields, names, fixed, tuple(texts))


def _names(node: nodes.Node) -> list[nodes.Name]:
    return [node] if isinstance(node, nodes.Name) else list(node.find_all(nodes.Name))
