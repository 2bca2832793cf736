"""Keys of the stats API: how they are kept, found and refused."""

from __future__ import annotations

import logging
import statistics
import time

import pytest

from mailmill.errors import Misconfigured
from mailmill.io.postgres import api_keys
from mailmill.io.postgres.database import Database
from mailmill.pipelines.read import keys


def test_F49_a_wrong_key_gets_one_answer_whether_its_prefix_is_known_or_not(history, make_key, client) -> None:
    good = make_key(history("acme"))["Authorization"].removeprefix("Bearer ")
    prefix = keys.prefix(good)
    wrong = [
        f"mm_{prefix}_{'A' * 43}", f"mm_{'z' * 10}_{'A' * 43}", good[:-1], good + "A", good.upper(), "mm_", "x", "ä",
        "' OR 1=1 --", f"mm_{prefix}_", good.replace(prefix, "%" * 10),
    ]  # fmt: skip
    answers = [
        client.get("/api/v2/stats/acme/overview", headers=[(b"Authorization", b"Bearer " + key.encode())])
        for key in wrong[:9]
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert client.get("/api/v2/stats/acme/overview", headers={"Authorization": f"Basic {good}"}).status_code == 401
    assert client.get(f"/api/v2/stats/acme/overview?api_key={good}").status_code == 401


def test_F49_an_unknown_prefix_takes_as_long_as_a_wrong_secret(history, make_key, database: Database) -> None:
    good = make_key(history("acme"))["Authorization"].removeprefix("Bearer ")
    known, unknown = f"mm_{keys.prefix(good)}_{'A' * 43}", f"mm_{'z' * 10}_{'A' * 43}"
    times: dict[str, list[float]] = {known: [], unknown: []}
    with database.connect("stats", autocommit=True) as conn:
        for _ in range(300):
            for key in times:
                began = time.perf_counter()
                assert api_keys.holder(conn, key) is None
                times[key].append(time.perf_counter() - began)
    ratio = statistics.median(times[unknown]) / statistics.median(times[known])
    assert 0.6 < ratio < 1.6, ratio


def test_F49_the_key_is_stored_as_a_hash_and_written_nowhere(
    history, client, verb, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    history("acme")
    caplog.set_level(logging.DEBUG)
    key = verb("key", "create", "--tenant", "acme").strip()
    secret = key.split("_", 2)[2]
    client.get("/api/v2/stats/acme/overview", headers={"Authorization": f"Bearer {key}"})
    client.get(f"/api/v2/stats/acme/overview?key={key}")
    logged = "".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("mailmill", "uvicorn"))
    )
    assert secret not in logged
    with database.connect() as conn:
        (row,) = conn.execute("SELECT api_keys::text FROM api_keys").fetchone() or ("",)
        assert secret not in row and keys.digest(key).hex() in row
    assert secret not in verb("key", "list", "--json")


def test_a_revoked_key_opens_nothing_from_that_moment(history, make_key, client, verb) -> None:
    headers = make_key(history("acme"))
    assert client.get("/api/v2/stats/acme/overview", headers=headers).status_code == 200
    verb("key", "revoke", headers["Authorization"].removeprefix("Bearer "))
    assert client.get("/api/v2/stats/acme/overview", headers=headers).status_code == 401
    with pytest.raises(Misconfigured, match="no key"):
        verb("key", "revoke", "nothing")


@pytest.mark.parametrize("words", [(), ("--tenant", "acme", "--operator", "ann"), ("--tenant", "nobody")])
def test_a_key_is_for_one_tenant_or_for_an_operator(verb, history, words: tuple[str, ...]) -> None:
    history("acme")
    with pytest.raises(Misconfigured):
        verb("key", "create", *words)
