"""Whether templates can be sent to anybody; the target stage knows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath

from mailmill.errors import Misconfigured
from mailmill.pipelines.configuration.documents import Declared, Problem
from mailmill.pipelines.configuration.specs import TemplateSpec
from mailmill.pipelines.target import templates


def check(declared: Iterable[Declared]) -> list[Problem]:
    """A problem for each template with a mistake in it."""
    return [problem for one in declared for problem in _problems(one)]


def _problems(one: Declared) -> Iterator[Problem]:
    if isinstance(one.spec, TemplateSpec) and one.spec.html is not None and one.spec.text is not None:
        try:
            templates.check(one.spec.subject, one.spec.html, one.spec.text)
        except Misconfigured as error:
            yield at(one, error)


def at(one: Declared, error: Misconfigured) -> Problem:
    """The stage names part and line (`html:12`); a person looks for the file and the line in it."""
    message = str(error).removeprefix(f"{error.place}: ")
    part, _, line = (error.place or "").partition(":")
    file = one.document.value.get(f"{part}_file")
    if file is not None:
        path = str(PurePath(one.document.file).parent / file)
        return Problem(place=f"{path}:{line}" if line else path, message=message)
    where = f"{part}, line {line}" if line else part
    return one.problem(f"{where}: {message}", (part,))
