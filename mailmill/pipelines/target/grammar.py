"""What a template may not do: all that reaches out of it, or makes much of little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import nodes

_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.Name, nodes.Const,
    nodes.Filter, nodes.Test, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand,
    nodes.Concat, nodes.Add, nodes.Sub, nodes.Neg, nodes.Pos, nodes.Getitem, nodes.Slice, nodes.Call, nodes.Getattr,
    nodes.List, nodes.Tuple, nodes.Keyword,
)  # fmt: skip
_WORDS = {
    "Macro": "{% macro %}", "CallBlock": "{% call %}", "Include": "{% include %}",
    "Import": "{% import %}", "FromImport": "{% from %}", "Extends": "{% extends %}", "Block": "{% block %}",
    "FilterBlock": "{% filter %}", "With": "{% with %}", "AssignBlock": "{% set %} with a body",
    "Pow": "**", "Mul": "*", "Mod": "%", "Div": "/", "FloorDiv": "//",
    "ScopedEvalContextModifier": "{% autoescape %}", "NSRef": "namespace", "Dict": "a mapping",
}  # fmt: skip


KEEPING = frozenset({"d", "default", "e", "escape", "forceescape", "string"})  # filters that change no link
LOOP = frozenset({"index", "index0", "first", "last", "length"})


@dataclass(frozen=True, slots=True)
class Forbidden:
    """What a template may not do, and where."""

    message: str
    line: int


def forbidden(
    tree: nodes.Template, *, filters: frozenset[str], tests: frozenset[str], methods: frozenset[str]
) -> Forbidden | None:
    """The first thing in a template that is not allowed, None when all is."""
    assigned = {node.target.name for node in tree.find_all(nodes.Assign) if isinstance(node.target, nodes.Name)}
    for node, parent in _walk(tree):
        message = _forbidden(node, parent, filters, tests, methods) or _chained(node, assigned)
        if message:
            return Forbidden(message, node.lineno or 1)
    return None


def changed(tree: nodes.Template, link: str) -> Forbidden | None:
    """Where a link of ours would come out as another one: its end is each recipient's own, and put in at the last."""
    links = {link}
    for one in tree.find_all(nodes.Assign):
        if isinstance(one.target, nodes.Name) and _shows(one.node, links):
            links.add(one.target.name)
    for node in tree.find_all(nodes.Expr):
        match node:
            case nodes.Filter(node=nodes.Node() as of) if node.name not in KEEPING:
                what = f"the filter {node.name}"
            case nodes.Getattr(node=of) | nodes.Getitem(node=of):
                what = "a method, an index or a loop"
            case _:
                continue
        if _shows(of, links):
            allowed = ", ".join(sorted(KEEPING))
            return Forbidden(f"{what} would make another link of {link}; allowed filters are {allowed}", node.lineno)
    return None


def printable(node: nodes.Node) -> Iterator[nodes.Const]:
    """The constants that a template may print: not what it only compares with, nor what a method looks for."""
    for child in node.iter_child_nodes():
        match child:
            case nodes.Const():
                yield child
            case nodes.Compare() | nodes.Test():
                pass
            case nodes.Call():
                yield from printable(child.node)
            case _:
                yield from printable(child)


def _shows(node: nodes.Node, names: set[str]) -> bool:
    found = [node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)
    return any(one.name in names for one in found)


def _forbidden(
    node: nodes.Node, parent: nodes.Node, filters: frozenset[str], tests: frozenset[str], methods: frozenset[str]
) -> str | None:
    match node:
        case nodes.Filter() if node.name not in filters:
            return f"the filter {node.name} is not allowed; allowed are {', '.join(sorted(filters))}"
        case nodes.Test() if node.name not in tests:
            return f"the test {node.name} is not allowed; allowed are {', '.join(sorted(tests))}"
        case nodes.Getattr(node=nodes.Name(name="loop")) if node.attr in LOOP:
            return None
        case nodes.Getattr() if not (isinstance(parent, nodes.Call) and parent.node is node and node.attr in methods):
            return f".{node.attr} is not allowed; a merge field is a text"
        case nodes.Getitem(arg=nodes.Const(value=str())):
            return "a merge field is a text and has no items with names"
        case nodes.Call() if not isinstance(node.node, nodes.Getattr):
            return "a call is not allowed"
        case nodes.Call() if node.dyn_args is not None or node.dyn_kwargs is not None:
            return "a call with * or ** is not allowed"
        case nodes.Assign() if not isinstance(node.target, nodes.Name):
            return "{% set %} takes one name"
        case nodes.For() if node.recursive or not isinstance(node.target, nodes.Name):
            return "{% for %} takes one name, and is not recursive"
        case nodes.For() if any(_loops(part) for part in (*node.body, *node.else_)):
            return "a {% for %} within a {% for %} is not allowed"
    if not isinstance(node, _ALLOWED):
        return f"{_WORDS.get(type(node).__name__, type(node).__name__)} is not allowed in a template"
    return None


def _chained(node: nodes.Node, assigned: set[str]) -> str | None:
    """A variable made of variables could double in size with every line."""
    if isinstance(node, nodes.Assign):
        for name in node.node.find_all(nodes.Name):
            if name.name in assigned:
                return "{% set %} may use merge fields only, not another {% set %}"
        if isinstance(node.node, nodes.Name) and node.node.name in assigned:
            return "{% set %} may use merge fields only, not another {% set %}"
    return None


def _loops(node: nodes.Node) -> bool:
    return isinstance(node, nodes.For) or next(node.find_all(nodes.For), None) is not None


def _walk(node: nodes.Node) -> Iterator[tuple[nodes.Node, nodes.Node]]:
    yield node, node
    for child in node.iter_child_nodes():
        for inner, parent in _walk(child):
            yield inner, node if inner is child else parent
