"""What a parsed template uses: its names, which of them must not be missing, and what it may not do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import nodes

_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.Assign, nodes.Name, nodes.Const, nodes.Filter,
    nodes.Test, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Concat, nodes.Add,
    nodes.Sub, nodes.Neg, nodes.Pos, nodes.Getitem, nodes.Slice, nodes.Call, nodes.Getattr, nodes.List,
    nodes.Tuple, nodes.Keyword,
)  # fmt: skip
_WORDS = {
    "For": "{% for %}", "Macro": "{% macro %}", "CallBlock": "{% call %}", "Include": "{% include %}",
    "Import": "{% import %}", "FromImport": "{% from %}", "Extends": "{% extends %}", "Block": "{% block %}",
    "FilterBlock": "{% filter %}", "With": "{% with %}", "AssignBlock": "{% set %} with a body",
    "Pow": "**", "Mul": "*", "Mod": "%", "Div": "/", "FloorDiv": "//",
    "ScopedEvalContextModifier": "{% autoescape %}", "NSRef": "namespace", "Dict": "a mapping",
}  # fmt: skip


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


def _forbidden(
    node: nodes.Node, parent: nodes.Node, filters: frozenset[str], tests: frozenset[str], methods: frozenset[str]
) -> str | None:
    match node:
        case nodes.Filter() if node.name not in filters:
            return f"the filter {node.name} is not allowed; allowed are {', '.join(sorted(filters))}"
        case nodes.Test() if node.name not in tests:
            return f"the test {node.name} is not allowed; allowed are {', '.join(sorted(tests))}"
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


def _walk(node: nodes.Node) -> Iterator[tuple[nodes.Node, nodes.Node]]:
    yield node, node
    for child in node.iter_child_nodes():
        for inner, parent in _walk(child):
            yield inner, node if inner is child else parent


def uses(tree: nodes.Template) -> dict[str, bool]:
    """Every name the template needs, in its order -> whether a missing value is an error somewhere."""
    found: dict[str, bool] = {}
    _visit(tree, frozenset(), found, set())
    return found


def lines(tree: nodes.Template) -> dict[str, int]:
    """The line in which each name stands first, counted from 1."""
    found: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        found[node.name] = min(node.lineno, found.get(node.name, node.lineno))
    return found


def always_shown(tree: nodes.Template) -> frozenset[str]:
    """The names printed whatever the values are."""
    shown: set[str] = set()
    for part in tree.body:
        if isinstance(part, nodes.Output):
            for node in part.nodes:
                while isinstance(node, nodes.Filter) and node.node is not None:
                    node = node.node
                if isinstance(node, nodes.Name):
                    shown.add(node.name)
    return frozenset(shown)


def _visit(node: nodes.Node, known: frozenset[str], found: dict[str, bool], own: set[str]) -> None:
    """Note the names below a node. `known`: those that cannot be missing here; `own`: set by the template itself."""
    match node:
        case nodes.Name(ctx="load"):
            if node.name not in own:
                found[node.name] = found.get(node.name, False) or node.name not in known
        case nodes.Filter(name="default" | "d", node=nodes.Name() as name):
            _note(name, found, own)
            for argument in (*node.args, *node.kwargs):
                _visit(argument, known, found, own)
        case nodes.If():
            _condition(node.test, known, found, own)
            _visit_all(node.body, known | _implied(node.test, True), found, own)
            rest = known | _implied(node.test, False)
            for branch in node.elif_:
                _visit(branch, rest, found, own)
                rest |= _implied(branch.test, False)
            _visit_all(node.else_, rest, found, own)
        case nodes.CondExpr():
            _condition(node.test, known, found, own)
            _visit(node.expr1, known | _implied(node.test, True), found, own)
            if node.expr2 is not None:
                _visit(node.expr2, known | _implied(node.test, False), found, own)
        case nodes.Or():
            _condition(node.left, known, found, own)
            _visit(node.right, known | _implied(node.left, False), found, own)
        case nodes.Test() | nodes.Not() | nodes.And() | nodes.Compare():
            _condition(node, known, found, own)
        case nodes.Assign(target=nodes.Name() as target):
            _visit(node.node, known, found, own)
            own.add(target.name)
        case _:
            _visit_all(list(node.iter_child_nodes()), known, found, own)


def _visit_all(parts: list[nodes.Node], known: frozenset[str], found: dict[str, bool], own: set[str]) -> None:
    for part in parts:
        _visit(part, known, found, own)


def _note(name: nodes.Name, found: dict[str, bool], own: set[str]) -> None:
    if name.name not in own:
        found.setdefault(name.name, False)


def _condition(node: nodes.Node, known: frozenset[str], found: dict[str, bool], own: set[str]) -> None:
    """Names in a condition may be missing: that is what is asked."""
    match node:
        case nodes.Name():
            _note(node, found, own)
        case nodes.Test(node=nodes.Name() as name, name="defined" | "undefined" | "none"):
            _note(name, found, own)
        case nodes.Not():
            _condition(node.node, known, found, own)
        case nodes.And():
            _condition(node.left, known, found, own)
            _condition(node.right, known | _implied(node.left, True), found, own)
        case nodes.Or():
            _condition(node.left, known, found, own)
            _condition(node.right, known | _implied(node.left, False), found, own)
        case nodes.Compare(expr=nodes.Name() as name, ops=[nodes.Operand(op="eq" | "ne" | "in" | "notin") as operand]):
            _note(name, found, own)
            _visit(operand.expr, known, found, own)
        case _:
            if isinstance(node, nodes.Test | nodes.Compare):
                _visit_all(list(node.iter_child_nodes()), known, found, own)
            else:
                _visit(node, known, found, own)


def _implied(test: nodes.Node, truth: bool) -> frozenset[str]:
    """The names that have a value when the test came out so."""
    match test:
        case nodes.Name():
            return frozenset({test.name}) if truth else frozenset()
        case nodes.Test(node=nodes.Name() as name, name="defined"):
            return frozenset({name.name}) if truth else frozenset()
        case nodes.Test(node=nodes.Name() as name, name="undefined"):
            return frozenset() if truth else frozenset({name.name})
        case nodes.Not():
            return _implied(test.node, not truth)
        case nodes.And():
            both = _implied(test.left, truth), _implied(test.right, truth)
            return both[0] | both[1] if truth else both[0] & both[1]
        case nodes.Or():
            both = _implied(test.left, truth), _implied(test.right, truth)
            return both[0] & both[1] if truth else both[0] | both[1]
        case nodes.Compare(expr=nodes.Name() as name, ops=[nodes.Operand(op=op, expr=other)]) if _fixed(other):
            return frozenset({name.name}) if truth == (op in ("eq", "in")) else frozenset()
    return frozenset()


def _fixed(node: nodes.Node) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)
