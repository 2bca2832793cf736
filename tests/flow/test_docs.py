"""Every `mailmill` command of the README and of docs/ is run by a reader's hand, or at least understood."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from docs_world import DOCUMENTS, Reader, blocks, commands, kill, mentions
from psycopg.conninfo import conninfo_to_dict
from pydantic import TypeAdapter, ValidationError

from mailmill.cli import VERBS
from mailmill.cli.app import OrShow, app
from mailmill.cli.configuration import write_example
from mailmill.io import project_files
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.configuration import documents
from mailmill.pipelines.target import rules

README, DOCS = DOCUMENTS[0], DOCUMENTS[1:]
RUN = [document for document in DOCS if any(command.not_run is None for command in commands(document))]


# ---------------------------------------------------------------- docs/


@pytest.fixture
def acme(tmp_path: Path, server: EmbeddedServer, database: Database) -> Iterator[Reader]:
    """The example project as its tenant acme would have it, with the files that the documents name."""
    name = conninfo_to_dict(database.conninfo("owner"))["dbname"]
    reader = Reader(tmp_path / "acme", {"MAILMILL_DATABASE_URL": server.conninfo("postgres", str(name))})
    write_example(reader.folder)
    yaml = (reader.folder / "mailmill.yaml").read_text(encoding="utf-8")
    for old, new in (("slug: example", "slug: acme"), ("tenant: example", "tenant: acme"),
                     ("slug: inbox", "slug: newsletter"), ("example-webhook", "acme-webhook")):  # fmt: skip
        assert old in yaml
        yaml = yaml.replace(old, new)
    yaml += "\n---\nkind: source\ntenant: acme\nslug: desk\ntype: manual\n"
    yaml += "---\nkind: tag\ntenant: acme\nslug: vip\n"
    (reader.folder / "mailmill.yaml").write_text(reader.here(yaml), encoding="utf-8")
    (reader.folder / "secrets" / "example-webhook").rename(reader.folder / "secrets" / "acme-webhook")
    (reader.folder / "people.csv").write_text("email,name,tags\npia@people.example,Pia,vip\nno address,Nobody,\n")
    reader.run("mailmill apply mailmill.yaml")
    yield reader
    kill(reader.servers.values())


@pytest.mark.system  # some two hundred processes, one after the other
@pytest.mark.parametrize("document", RUN, ids=lambda document: document.stem)
def test_the_commands_of_a_document_run_as_they_stand(document: Path, acme: Reader) -> None:
    rules = [block for block in blocks(document, "yaml") if block.startswith("rules:")]
    (acme.folder / "sandbox.yaml").write_text("\n".join(rules), encoding="utf-8")  # the rules that it documents
    for command in commands(document):
        if command.not_run is None:
            acme.type(command)
    acme.end()


# ---------------------------------------------------------------- all of them


def parse(words: list[str]) -> None:
    """Let typer read a command line without running it.

    Raises: typer's usage errors; KeyError for a verb that does not exist.
    """
    command: Any = typer.main.get_command(app)
    path = ["mailmill"]
    while hasattr(command, "commands") and words:
        if isinstance(command, OrShow) and words[0] not in command.commands:
            words = ["show", *words]
        command, path, words = command.commands[words[0]], [*path, words[0]], words[1:]
    if hasattr(command, "commands"):
        return  # a group by its name
    command.make_context(" ".join(path), list(words))


@pytest.fixture(scope="module", autouse=True)
def _verbs() -> None:
    for module in dict.fromkeys(VERBS.values()):
        import_module(f"mailmill.cli.{module}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_what_a_document_says_of_the_command_line_parses(document: Path) -> None:
    for command in commands(document):
        if command.words[0] == "mailmill":
            parse(command.words[1:])
    for mention in mentions(document):
        words = mention.split()[1:]
        wanted: Any = typer.main.get_command(app)
        while words and hasattr(wanted, "commands"):
            if isinstance(wanted, OrShow) and words[0] not in wanted.commands:
                break
            assert words[0] in wanted.commands, f"{document.name} speaks of `{mention}`"
            wanted, words = wanted.commands[words[0]], words[1:]
        if words:  # more than a verb's name: then as it has to be typed
            parse(mention.split()[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_the_YAML_of_a_document_is_what_apply_takes(document: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(document, "yaml")):
        (tmp_path / f"{number}.yaml").write_text("" if block.startswith("rules:") else block, encoding="utf-8")
    raw, problems = project_files.read(sorted(tmp_path.iterdir()))
    assert [*problems, *documents.validate(raw)[1]] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_the_YAML_within_a_sentence_is_a_rule_or_a_field_of_a_document(document: Path) -> None:
    for said in spans(document):
        ((name, value),) = said.items()
        fields = [spec.model_fields[name] for spec in documents.SPECS.values() if name in spec.model_fields]
        for field in fields:
            with suppress(ValidationError):
                TypeAdapter(field.annotation).validate_python(value)
                if name != "rule":
                    break
        else:  # or a comparison that has the name of a field
            rules.parse(value if name == "rule" else said)


def spans(document: Path) -> Iterator[dict[str, Any]]:
    """What stands as `name: {…}` in a sentence or table, unless it is a form with its values left out."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    for span in re.findall(r"`([a-z_]+: [\[{][^`…]*[\]}])`", prose):
        said = yaml.safe_load(" ".join(span.split()))
        if not any(isinstance(value, dict) and None in value.values() for value in said.values()):
            yield said


def test_no_command_of_a_document_is_overlooked() -> None:
    verbs = "|".join(VERBS)
    for document in DOCUMENTS:
        lines = re.findall(rf"^\s*(?:\$ )?mailmill (?:{verbs})\b", document.read_text("utf-8"), re.MULTILINE)
        seen = [command for command in commands(document) if command.words[0] == "mailmill"]
        assert len(lines) <= len(seen), f"{document.name} has commands outside of a block, or in one nobody closes"


def test_the_README_leads_to_every_document() -> None:
    text = README.read_text(encoding="utf-8")
    assert [document.name for document in DOCS if f"](docs/{document.name})" not in text] == []


def test_a_wrong_command_would_be_seen() -> None:
    with pytest.raises(KeyError):
        parse(["sned"])
    for wrong in (["send", "--untill-idle"], ["apply"], ["campaign", "start", "a/b", "c"]):
        with pytest.raises(Exception, match=r"(?i)no such option|missing parameter|unexpected extra"):
            parse(wrong)
