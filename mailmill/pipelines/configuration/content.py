"""Whether segments and templates say something that can be done; their own stages know it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath

from mailmill.errors import Misconfigured
from mailmill.pipelines.configuration.documents import Declared, Problem
from mailmill.pipelines.configuration.specs import SegmentSpec, TemplateSpec
from mailmill.pipelines.target import rules, templates


def check(declared: Iterable[Declared]) -> list[Problem]:
    """A problem for each rule nobody can follow and each template nobody could be sent."""
    return [problem for one in declared for problem in _problems(one)]


def _problems(one: Declared) -> Iterator[Problem]:
    if isinstance(one.spec, SegmentSpec):
        try:
            rules.parse(one.spec.rule)
        except rules.RuleError as error:
            yield one.problem(f"{rules.written('rule', error.place)}: {error.message}", ("rule", *error.place))
    if isinstance(one.spec, TemplateSpec) and one.spec.html is not None and one.spec.text is not None:
        try:
            templates.check(one.spec.subject, one.spec.html, one.spec.text)
        except Misconfigured as error:
            yield _template_problem(one, error)


def _template_problem(one: Declared, error: Misconfigured) -> Problem:
    """The stage names part and line (`html:12`); a person looks for the file and the line in it."""
    message = str(error).removeprefix(f"{error.place}: ")
    part, _, line = (error.place or "").partition(":")
    file = one.document.value.get(f"{part}_file")
    if file is not None:
        return Problem(place=f"{PurePath(one.document.file).parent / file}:{line}", message=message)
    return one.problem(f"{part}, line {line}: {message}", (part,))
