"""What the documentation says is run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import duckdb
import pytest

from mailmill.io.postgres.database import Database
from mailmill.io.warehouse import Warehouse

DOCS = Path(__file__).parents[3] / "docs"


def blocks(name: str, language: str) -> list[str]:
    text = (DOCS / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


QUERIES = blocks("analysts.md", "sql")


@pytest.fixture
def published(history, fill_lake, lake, tmp_path: Path, database: Database, at_now) -> Path:
    fill_lake(history("acme", contacts=100, campaigns=2, hours=1))
    warehouse = Warehouse(folder=tmp_path / "warehouse", lake=lake)
    warehouse.publish(database, now=at_now)
    return warehouse.path("acme")


def test_analysts_have_five_queries_and_each_answers(published: Path) -> None:
    assert len(QUERIES) == 5
    with duckdb.connect(str(published), read_only=True) as store:
        answers = [store.execute(query).fetchall() for query in QUERIES]
        assert all(answers)
        assert answers[0][0][:6] == ("campaign-1", "finished", 100, 90, 40, 44.4)
        assert {(row[1], row[3]) for row in answers[1] if row[0] == "campaign-1"} >= {("failed", 10), ("sent", 10)}
        assert answers[2][0][:3] == ("example.org", 200, 90.0)
        assert answers[3] == [("csv-drop", 100, 90, 40, 0)]
        happened = {kind: in_events for _, kind, _, in_events in answers[4]}
        assert happened["accepted"] == 180 and happened["opened"] == 80


def test_every_name_in_the_analysts_table_exists(published: Path) -> None:
    table = (DOCS / "analysts.md").read_text(encoding="utf-8").split("| name |")[1].split("\n\n")[0]
    names = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    with duckdb.connect(str(published), read_only=True) as store:
        have = {name for (name,) in store.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    assert names == have - {"publication"}


def test_every_command_about_the_stats_api_works(history, client, verb) -> None:
    history("acme")
    lines = [line for block in blocks("stats-api.md", "sh") for line in block.splitlines()]
    key = ""
    for line in lines:
        words = shlex.split(line)
        if words[0] == "mailmill":
            said = verb(*words[1:])
            key = said.strip() if words[1:3] == ["key", "create"] else key
    assert key.startswith("mm_")
    curls = [shlex.split(line) for line in lines if line.startswith("curl")]
    assert len(curls) == 6
    for words in curls:  # run by httpx: curl itself need not be there
        assert words[1] == "-sS" and words[-1].startswith("http://127.0.0.1:8026/")
        header = dict([words[3].replace("$KEY", key).split(": ")]) if words[2] == "-H" else {}
        answer = client.get(words[-1].removeprefix("http://127.0.0.1:8026"), headers=header)
        assert answer.status_code == 200, answer.text


def test_the_documented_error_is_the_real_one(history, make_key, client) -> None:
    headers = make_key(history("acme"))
    (documented,) = blocks("stats-api.md", "json")
    assert client.get("/api/v2/stats/other/overview", headers=headers).json() == json.loads(documented)
