"""Whether templates can be sent to anybody; the target stage knows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath

from mailmill.errors import Misconfigured
from mailmill.pipelines.configuration.documents import Declared, Position, Problem
from mailmill.pipelines.configuration.specs import ContentSpec, TemplateSpec
from mailmill.pipelines.target import variants


def check(declared: Iterable[Declared]) -> list[Problem]:
    """A problem for each template with a mistake in it."""
    return [problem for one in declared for problem in _problems(one)]


def contents(one: Declared) -> Iterator[tuple[Position, ContentSpec]]:
    """The contents of a template whose files were read, with their places in the document."""
    if isinstance(one.spec, TemplateSpec):
        for position, spec in [((), one.spec), *((("variants", n), part) for n, part in enumerate(one.spec.variants))]:
            if spec.html is not None and spec.text_file is None:
                yield position, spec


def _problems(one: Declared) -> Iterator[Problem]:
    for position, spec in contents(one):
        try:
            variants.checked(spec.subject, spec.html or "", spec.text)
        except Misconfigured as error:
            yield at(one, error, position)


def at(one: Declared, error: Misconfigured, position: Position = ()) -> Problem:
    """The stage names part and line (`html:12`); a person looks for the file and the line in it."""
    message = str(error).removeprefix(f"{error.place}: ")
    part, _, line = (error.place or "").partition(":")
    value = one.document.value
    for step in position:
        value = value[step]
    file = value.get(f"{part}_file")
    if file is not None:
        path = str(PurePath(one.document.file).parent / file)
        return Problem(place=f"{path}:{line}" if line else path, message=message)
    where = f"{part}, line {line}" if line else part
    if part == "text" and value.get("text") is None:
        where = "the text made of the HTML"
    return one.problem(f"{where}: {message}", (*position, part))
