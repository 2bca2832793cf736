"""The YAML files of a project, read with the line of everything in them; and the text files that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.reader import ReaderError

from mailmill.pipelines.configuration.documents import Declared, Position, Problem, RawDocument
from mailmill.pipelines.configuration.specs import ContentSpec, TemplateSpec

SUFFIXES = (".yaml", ".yml")
MAX_FILE_BYTES = 4 * 2**20
MAX_NODES = 200_000  # of a document with its aliases written out: a few lines of them can mean billions
MAX_DIGITS = 1000  # of a number; Python writes none of more than 4,300
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_TEXTS = {"html_file": "html", "text_file": "text"}


class _Constructor(SafeConstructor):
    """Times stay text: the specs read them, and say it when the offset is missing. JSON writes a character beyond the
    first 65,536 as two halves."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            if isinstance(node.value, str) and node.tag.endswith(":int") and len(node.value) > MAX_DIGITS:
                raise ValueError
            value = super().construct_object(node, deep=deep)
            if not isinstance(value, str) or not _NO_TEXT.search(value):
                return value
            if "\0" in value:
                raise ValueError
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except ValueError:
            said = f"{node.value[:40]!r}" if isinstance(node.value, str) else "this"
            raise ConstructorError(None, None, f"{said} is no value that can be read", node.start_mark) from None


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Finds the line of a field by walking the document's nodes."""

    root: Node

    def __call__(self, position: Position) -> int:
        node, line = self.root, self.root.start_mark.line
        for step in position:
            found = _below(node, step)
            if found is None:
                break
            line, node = found
        return int(line) + 1


def _below(node: Node, step: str | int) -> tuple[int, Node] | None:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line, value
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line, node.value[step]
    return None


def read(paths: Iterable[Path]) -> tuple[list[RawDocument], list[Problem]]:
    """Every document of these files and folders (folders with all below them, hidden ones left out).

    Out: documents in the order of their files; a problem for each path or document that cannot be read.
    """
    documents: list[RawDocument] = []
    problems: list[Problem] = []
    files: dict[Path, str] = {}  # real path -> as it was named: the same file twice is read once
    for path in paths:
        if path.is_dir():
            found = sorted(_walk(path))
            if not found:
                problems.append(Problem(place=str(path), message=f"no {' or '.join(SUFFIXES)} file in this folder"))
        elif path.exists():
            found = [path]
        else:
            found = []
            problems.append(Problem(place=str(path), message="no such file or folder"))
        for file in found:
            files.setdefault(file.resolve(), str(file))
    for real, shown in files.items():
        try:
            documents += _documents(real, shown)
        except _Unreadable as error:
            problems.append(error.problem)
    return documents, problems


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield Path(root, name)


class _Unreadable(Exception):
    def __init__(self, place: str, message: str) -> None:
        self.problem = Problem(place=place, message=message)


def _documents(path: Path, shown: str) -> list[RawDocument]:
    text = _text(path, shown)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        constructor, parser = yaml.get_constructor_parser(text)
    except ReaderError as error:
        place = f"{shown}:{text.count(chr(10), 0, error.position) + 1}"
        raise _Unreadable(place, f"not valid YAML: the character {chr(error.character)!r} is not allowed") from None
    found = []
    try:
        while constructor.check_data():
            node = constructor.composer.get_node()
            _bounded(node, shown)
            value: Any = constructor.construct_document(node)
            if value is not None:  # between two --- with nothing but comments
                found.append(RawDocument(file=shown, value=value, line=_Lines(node)))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{shown}:{mark.line + 1}" if mark else shown
        raise _Unreadable(place, f"not valid YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        first = str(error).strip().split("\n", 1)[0]
        raise _Unreadable(shown, f"not valid YAML: {first}") from None
    except RecursionError:
        raise _Unreadable(shown, "not valid YAML: nested too deeply") from None
    finally:
        parser.dispose()
    return found


def _text(path: Path, shown: str) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _Unreadable(shown, f"larger than {MAX_FILE_BYTES // 2**20} MiB")
        data = path.read_bytes()
        text, wrong = data.decode("utf-8-sig"), data.find(b"\0")  # UTF-16 that does not say so
    except UnicodeDecodeError as error:
        wrong = error.start
    except OSError as error:
        raise _Unreadable(shown, f"cannot be read: {error.strerror}") from None
    if wrong >= 0:
        line = data.count(b"\n", 0, wrong) + 1
        raise _Unreadable(f"{shown}:{line}", "not UTF-8: save the file in this encoding")
    return text


def _bounded(root: Node, shown: str) -> None:
    """Refuse a document whose aliases write out to more than MAX_NODES nodes, or to themselves."""
    seen, waiting = 0, [root]
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > MAX_NODES:
            place = f"{shown}:{root.start_mark.line + 1}"
            raise _Unreadable(place, "too large a document: its aliases (*name) grow without bound")
        if isinstance(node, MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            waiting += node.value


def inline(declared: Sequence[Declared]) -> tuple[list[Declared], list[Problem]]:
    """Put the text of `html_file` and `text_file` into the templates that name them.

    The names are relative to the YAML file and stay in its folder or below.
    """
    result: list[Declared] = []
    problems: list[Problem] = []
    for one in declared:
        if not isinstance(one.spec, TemplateSpec):
            result.append(one)
            continue
        folder = Path(one.document.file).parent
        update: dict[str, Any] = {}
        try:
            update = _read_texts(one.spec, folder, ())
            update["variants"] = tuple(
                spec.model_copy(update=_read_texts(spec, folder, ("variants", number)))
                for number, spec in enumerate(one.spec.variants)
            )
        except _NotRead as error:
            problems.append(one.problem(error.message, position=error.position))
        result.append(replace(one, spec=one.spec.model_copy(update=update)))
    return result, problems


class _NotRead(Exception):
    def __init__(self, message: str, position: Position) -> None:
        super().__init__(message)
        self.message, self.position = message, position


def _read_texts(spec: ContentSpec, folder: Path, position: Position) -> dict[str, Any]:
    update: dict[str, Any] = {}
    for field, target in _TEXTS.items():
        name = getattr(spec, field)
        if name is not None:
            try:
                update |= {field: None, target: _beside(folder, name)}
            except _Unreadable as error:
                raise _NotRead(f"{field}: {error.problem.place} {error.problem.message}", (*position, field)) from None
    return update


def _beside(folder: Path, name: str) -> str:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise _Unreadable(name, "has to lie beside the YAML file or below it")
    if not path.is_file():
        raise _Unreadable(str(path), "is no file")
    return _text(path, str(path))
