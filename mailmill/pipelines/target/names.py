"""What a parsed template uses: its names, and which of them must not be missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from jinja2 import nodes

from mailmill.pipelines.target import grammar

Known = frozenset[frozenset[str]]  # of each of these, one name at least has a value
NONE: Known = frozenset()
MAX_KNOWN = 64
_WHOLE = grammar.KEEPING | {"capitalize", "lower", "title", "trim", "upper"}  # filters that leave nothing out


@dataclass(slots=True)
class Uses:
    """`names` in the order they first appear. `bare`: where the last of these is printed, its absence is an error
    unless one of those before it is there."""

    names: dict[str, None] = field(default_factory=dict)
    bare: set[tuple[str, ...]] = field(default_factory=set)


def uses(tree: nodes.Template) -> Uses:
    """Every name the template needs, and which of them have to be there."""
    visitor = _Visitor(Uses(), set())
    visitor.visit(tree)
    return visitor.found


def lines(tree: nodes.Template) -> dict[str, int]:
    """The line in which each name stands first, counted from 1."""
    found: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        found[node.name] = min(node.lineno, found.get(node.name, node.lineno))
    return found


def always_shown(tree: nodes.Template) -> frozenset[str]:
    """The names printed whatever the values are, and whole."""
    shown: set[str] = set()
    for part in tree.body:
        if isinstance(part, nodes.Output):
            for node in part.nodes:
                while isinstance(node, nodes.Filter) and node.name in _WHOLE and node.node is not None:
                    node = node.node
                if isinstance(node, nodes.Name):
                    shown.add(node.name)
    return frozenset(shown)


@dataclass(slots=True)
class _Visitor:
    """Notes the names below a node. `own` are those set by the template itself.

    In every method: `known` is what cannot be missing here; `instead` are those of which one would have
    kept the template from coming here.
    """

    found: Uses
    own: set[str]

    def visit(self, node: nodes.Node, known: Known = NONE, instead: tuple[str, ...] = ()) -> None:
        match node:
            case nodes.Name(ctx="load"):
                self._note(node)
                group = dict.fromkeys((*instead, node.name))
                if node.name not in self.own and not any(names <= group.keys() for names in known):
                    self.found.bare.add(tuple(group))
            case nodes.Filter(name="default" | "d", node=nodes.Name() as name):
                self._note(name)
                self._all((*node.args, *node.kwargs), known, (*instead, name.name))
            case nodes.If() | nodes.CondExpr() | nodes.For():
                self._branches(node, known, instead)
            case nodes.Or():
                self.condition(node.left, known)
                self.visit(node.right, known | _implied(node.left, False), (*instead, *_alternatives(node.left)))
            case nodes.Test() | nodes.Not() | nodes.And() | nodes.Compare():
                self.condition(node, known, instead)
            case nodes.Assign(target=nodes.Name() as target):
                self.visit(node.node, known, instead)
                self.own.add(target.name)
            case _:
                self._all(node.iter_child_nodes(), known, instead)

    def _branches(self, node: nodes.If | nodes.CondExpr | nodes.For, known: Known, instead: tuple[str, ...]) -> None:
        match node:
            case nodes.For(target=nodes.Name() as target):
                self.visit(node.iter, known, instead)
                inner = _Visitor(self.found, self.own | {target.name, "loop"})
                if node.test is not None:
                    inner.condition(node.test, known, instead)
                inner._all(node.body, known, instead)
                self._all(node.else_, known, instead)
            case nodes.If():
                self.condition(node.test, known)
                self._all(node.body, known | _implied(node.test, True), instead)
                rest = known | _implied(node.test, False)
                for branch in node.elif_:
                    self.visit(branch, rest, instead)
                    rest |= _implied(branch.test, False)
                self._all(node.else_, rest, instead)
            case nodes.CondExpr():
                self.condition(node.test, known)
                self.visit(node.expr1, known | _implied(node.test, True), instead)
                if node.expr2 is not None:
                    self.visit(node.expr2, known | _implied(node.test, False), instead)

    def condition(self, node: nodes.Node, known: Known, instead: tuple[str, ...] = ()) -> None:
        """Names in a condition may be missing: that is what is asked."""
        match node:
            case nodes.Name():
                self._note(node)
            case nodes.Test(node=nodes.Name() as name, name="defined" | "undefined" | "none"):
                self._note(name)
            case nodes.Not():
                self.condition(node.node, known, instead)
            case nodes.And():
                self.condition(node.left, known, instead)
                self.condition(node.right, known | _implied(node.left, True), instead)
            case nodes.Or():
                self.condition(node.left, known, instead)
                self.condition(node.right, known | _implied(node.left, False), instead)
            case nodes.Compare(
                expr=nodes.Name() as name, ops=[nodes.Operand(op="eq" | "ne" | "in" | "notin") as operand]
            ):
                self._note(name)
                self.visit(operand.expr, known, instead)
            case nodes.Test() | nodes.Compare():
                self._all(node.iter_child_nodes(), known, instead)
            case _:
                self.visit(node, known, instead)

    def _all(self, parts: Iterable[nodes.Node], known: Known, instead: tuple[str, ...]) -> None:
        for part in parts:
            self.visit(part, known, instead)

    def _note(self, name: nodes.Name) -> None:
        if name.name not in self.own:
            self.found.names.setdefault(name.name)


def _alternatives(node: nodes.Node) -> tuple[str, ...]:
    """The names of `a or b or …`, each of which is printed when it is there."""
    match node:
        case nodes.Name():
            return (node.name,)
        case nodes.Or():
            return (*_alternatives(node.left), *_alternatives(node.right))
    return ()


def _implied(test: nodes.Node, truth: bool) -> Known:
    """What has a value when the test came out so."""
    match test:
        case nodes.Name():
            return _one(test) if truth else NONE
        case nodes.Test(node=nodes.Name() as name, name="defined"):
            return _one(name) if truth else NONE
        case nodes.Test(node=nodes.Name() as name, name="undefined"):
            return NONE if truth else _one(name)
        case nodes.Not():
            return _implied(test.node, not truth)
        case nodes.And():
            both = _implied(test.left, truth), _implied(test.right, truth)
            return both[0] | both[1] if truth else _either(*both)
        case nodes.Or():
            both = _implied(test.left, truth), _implied(test.right, truth)
            return _either(*both) if truth else both[0] | both[1]
        case nodes.Compare(expr=nodes.Name() as name, ops=[nodes.Operand(op=op, expr=other)]) if _fixed(other):
            return _one(name) if truth == (op in ("eq", "in")) else NONE
    return NONE


def _one(name: nodes.Name) -> Known:
    return frozenset({frozenset({name.name})})


def _either(left: Known, right: Known) -> Known:
    if len(left) * len(right) > MAX_KNOWN:  # knowing less is safe
        return NONE
    return frozenset(one | other for one in left for other in right)


def _fixed(node: nodes.Node) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)
