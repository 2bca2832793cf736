"""The stats API over a real PostgreSQL."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import psycopg
import pytest

from mailmill.api.stats.app import create_app
from mailmill.errors import StoreUnavailable
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.read_pool import ReadPool

Headers = dict[str, str]
MakeKey = Callable[[int | None], Headers]
TABLES_OF_TENANTS = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
   AND has_table_privilege(c.oid, 'SELECT')"""
COLUMN = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1"
PATHS = ("overview", "contacts", "campaigns", "events", "performance?days=7")


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_names_its_tenant_by_slug_or_number(client, history, make_key: MakeKey, path: str) -> None:
    number = history("acme")
    headers = make_key(number)
    for name in ("acme", str(number)):
        answer = client.get(f"/api/v2/stats/{name}/{path}", headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["tenant"]["slug"] == "acme"
        assert answer.headers["cache-control"] == "no-store"


def test_a_slug_goes_before_a_number_that_looks_the_same(client, history, make_key: MakeKey) -> None:
    first = history("acme")
    history(str(first))
    answer = client.get(f"/api/v2/stats/{first}/overview", headers=make_key(None)).json()
    assert answer["tenant"]["slug"] == str(first)


def test_the_overview_adds_up_and_shows_machines_apart(client, history, make_key: MakeKey) -> None:
    number = history("acme", campaigns=2, hours=30)
    answer = client.get("/api/v2/stats/acme/overview", headers=make_key(number)).json()
    assert answer["counts"]["accepted"] == 2 * 30 * 2
    assert answer["counts"]["deferred_attempts"] == 2 * 30 * 3
    assert answer["last_24_hours"]["opened"] == {"messages": 2 * 24 * 2, "events": 2 * 24 * 3}
    assert answer["counts"]["machine"]["opened"]["messages"] == 120
    assert answer["rates"]["opened"] == {"numerator": 120, "denominator": 120, "of": "accepted", "value": 1.0}
    assert answer["rates"]["accepted"] == {"numerator": 120, "denominator": 240, "of": "answered", "value": 0.5}
    assert answer["campaigns"] == {"finished": 2}


def test_contacts_are_counted_from_the_manifest_and_the_batches(client, history, make_key, database: Database) -> None:
    number = history("acme", batches=5)
    with database.transaction() as conn:
        conn.execute(
            "INSERT INTO manifest (file, tenant_id, dataset, part, rows, bytes, facts) VALUES"
            " ('1/contacts/a', %(t)s, 'contacts', '', 60, 1, '{\"as_of\": \"2026-11-20T10:00:00Z\", \"rows\": 100}'),"
            " ('1/contacts/b', %(t)s, 'contacts', '', 40, 1, '{\"as_of\": \"2026-11-20T10:00:00Z\", \"rows\": 100}'),"
            " ('1/segments/a', %(t)s, 'segments', 'newsletter', 70, 1, '{\"joined\": 5, \"left\": 1}')",
            {"t": number},
        )
    headers = make_key(number)
    answer = client.get("/api/v2/stats/acme/contacts?limit=3", headers=headers).json()
    assert answer["contacts"] == {"total": 100, "as_of": "2026-11-20T10:00:00Z"}
    by_hand, csv = answer["sources"]
    assert (csv["batches"], csv["rows_read"], csv["contacts_new"], by_hand["batches"]) == (5, 500, 400, 0)
    assert answer["segments"][0]["contacts"] == 70 and answer["segments"][0]["joined"] == 5
    rest = client.get(f"/api/v2/stats/acme/contacts?limit=3&cursor={answer['next_cursor']}", headers=headers).json()
    ids = [batch["id"] for batch in answer["batches"] + rest["batches"]]
    assert len(ids) == 5 and ids == sorted(ids, reverse=True) and rest["next_cursor"] is None


def test_campaigns_come_in_pages_newest_first(client, history, make_key: MakeKey) -> None:
    headers = make_key(history("acme", campaigns=5))
    slugs, cursor = [], ""
    while cursor is not None:
        page = client.get(
            f"/api/v2/stats/acme/campaigns?limit=2{cursor and '&cursor=' + cursor}", headers=headers
        ).json()
        slugs += [campaign["campaign"] for campaign in page["campaigns"]]
        cursor = page["next_cursor"]
    assert slugs == [f"campaign-{n}" for n in (5, 4, 3, 2, 1)]
    campaign = page["campaigns"][0]
    assert campaign["excluded"] == {"suppressed": 7}
    assert campaign["rates"]["accepted"] == {"numerator": 6, "denominator": 100, "of": "planned", "value": 0.06}


def test_events_of_one_campaign_come_by_hour_with_its_links(client, history, make_key: MakeKey) -> None:
    headers = make_key(history("acme", time_zone="Europe/Berlin"))
    answer = client.get("/api/v2/stats/acme/events?campaign=campaign-1&hours=5", headers=headers).json()
    assert [hour["counts"]["opened"]["events"] for hour in answer["hours"]] == [0, 0, 3, 3, 3]
    assert answer["hours"][-1]["start"] == "2026-11-20T13:00:00+01:00"
    assert answer["counts"]["opened"] == {"messages": 6, "events": 9}
    assert [link["clicked"]["messages"] for link in answer["links"]] == [3, 3]
    assert client.get("/api/v2/stats/acme/events?campaign=nobody", headers=headers).status_code == 404


def test_performance_has_every_day_of_the_tenants_calendar(client, history, make_key: MakeKey) -> None:
    headers = make_key(history("acme", time_zone="Pacific/Auckland", campaigns=1, hours=3))
    answer = client.get("/api/v2/stats/acme/performance?days=3", headers=headers).json()
    # half past noon in London is half past one of the next morning in Auckland: the third hour was yesterday
    assert [(day["day"], day["counts"]["accepted"]) for day in answer["days"]] == [
        ("2026-11-19", 0), ("2026-11-20", 2), ("2026-11-21", 4)]  # fmt: skip
    assert answer["counts"]["accepted"] == 6


def test_P22_a_key_opens_its_own_tenant_only(client, history, make_key: MakeKey) -> None:
    acme, other = history("acme"), history("other")
    headers = make_key(acme)
    strangers = [client.get(f"/api/v2/stats/{name}/{path}", headers=headers)
                 for name in ("other", other, "no-such-tenant", 999) for path in PATHS]  # fmt: skip
    assert {answer.status_code for answer in strangers} == {403}
    assert len({answer.content for answer in strangers}) == 1  # it does not even say which tenants there are
    assert client.get("/api/v2/stats/other/overview", headers=make_key(None)).status_code == 200
    assert client.get("/api/v2/stats/nobody/overview", headers=make_key(None)).status_code == 404


def test_P22_row_level_security_shows_one_tenant_whatever_the_query(history, database: Database) -> None:
    acme, other = history("acme", contacts=3), history("other", contacts=3)
    with database.connect("stats") as conn:
        tables = [name for (name,) in conn.execute(TABLES_OF_TENANTS)]
        assert len(tables) > 15
        for bound, seen in ((None, set()), (acme, {acme}), (other, {other})):
            conn.execute("SELECT set_config('mailmill.tenant_id', %s, false)", (str(bound or ""),))
            for table in tables:
                found = {n for (n,) in conn.execute(f"SELECT DISTINCT tenant_id FROM {table}")}
                assert found <= seen, table
            assert {n for (n,) in conn.execute("SELECT DISTINCT tenant_id FROM messages")} == seen


def test_P23_the_role_of_the_api_can_write_nothing(history, database: Database) -> None:
    number = history("acme", contacts=1)
    with database.connect("stats", tenant_id=number, autocommit=True) as conn:
        tables = [name for (name,) in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        assert "messages" in tables and "rollups" in tables and "api_keys" in tables
        for table in tables:
            column = conn.execute(COLUMN, (table,)).fetchone()
            assert column is not None
            for write in (
                f"INSERT INTO {table} DEFAULT VALUES", f"DELETE FROM {table}", f"TRUNCATE {table}",
                f"UPDATE {table} SET {column[0]} = DEFAULT", f"DROP TABLE {table}", f"SELECT * FROM {table} FOR UPDATE",
            ):  # fmt: skip
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(write)
        for write in ("CREATE TABLE public.x ()", "SELECT nextval('batches_id_seq')", "SET ROLE mailmill_owner"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(write)


def test_P23_a_request_is_a_read_only_transaction_of_that_role(database: Database) -> None:
    with ReadPool(database) as pool:
        with pool.transaction() as conn:
            row = conn.execute("SELECT current_user, current_setting('transaction_read_only')").fetchone()
            assert row == ("mailmill_stats", "on")
        with pytest.raises(StoreUnavailable, match="only reads"), pool.transaction() as conn:
            conn.execute("CREATE TEMP TABLE x ()")


def assert_error(answer, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"code", "message", "detail"}
    assert answer.json()["error"]["code"] == code
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["error"]


def test_every_producer_of_errors_uses_the_one_shape(client, history, make_key: MakeKey, database: Database) -> None:
    headers = make_key(history("acme"))
    history("other")
    base = "/api/v2/stats/acme"
    unauthorized = client.get(f"{base}/overview")
    assert_error(unauthorized, 401, "unauthorized")
    assert unauthorized.headers["www-authenticate"] == "Bearer"
    assert_error(client.get("/api/v2/stats/other/overview", headers=headers), 403, "forbidden")
    assert_error(client.get("/nowhere"), 404, "not_found")
    assert_error(client.post(f"{base}/overview", headers=headers), 405, "method_not_allowed")
    detail = assert_error(client.get(f"{base}/performance?days=x", headers=headers), 422, "invalid_parameter")["detail"]
    assert detail[0]["place"] == "query.days"
    bad_cursor = client.get(f"{base}/campaigns?cursor=x", headers=headers)
    assert assert_error(bad_cursor, 422, "invalid_parameter")["detail"][0]["place"] == "query.cursor"
    with database.transaction() as conn:
        conn.execute("ALTER TABLE rollups RENAME TO gone")
    said = assert_error(client.get(f"{base}/overview", headers=headers), 500, "internal_error")
    assert "rollups" not in json.dumps(said)


@pytest.mark.parametrize("name", ["ac%00me", "acme%0A", "%FF", "Acme", "acme--%27"])
def test_a_name_that_can_be_nobody_s_is_answered_as_one_that_nobody_has(client, history, make_key, name: str) -> None:
    own, operator = make_key(history("acme")), make_key(None)
    assert_error(client.get(f"/api/v2/stats/{name}/overview", headers=own), 403, "forbidden")
    assert_error(client.get(f"/api/v2/stats/{name}/overview", headers=operator), 404, "not_found")
    assert_error(client.get(f"/api/v2/stats/acme/events?campaign={name}", headers=own), 404, "not_found")


def test_what_PostgreSQL_does_not_take_is_the_request_s_fault(client, history, make_key, monkeypatch) -> None:
    def ask(*_: object, **__: object) -> None:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")

    headers = make_key(history("acme"))
    monkeypatch.setattr("mailmill.io.postgres.read.overview", ask)
    assert_error(client.get("/api/v2/stats/acme/overview", headers=headers), 422, "invalid_parameter")


def test_too_many_requests_are_told_when_to_come_back(serve, database: Database, history, make_key: MakeKey) -> None:
    headers = make_key(history("acme"))
    app = create_app(ReadPool(database), requests_per_minute=12, failures_per_minute=6, monotonic=lambda: 0.0)
    with serve(app) as client:
        answers = [client.get("/api/v2/stats/acme/overview", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert_error(answers[2], 429, "too_many_requests")
        assert answers[2].headers["retry-after"] == "5"
        wrong = [client.get("/api/v2/stats/acme/overview", headers={"Authorization": "Bearer x"}) for _ in range(3)]
        assert [answer.status_code for answer in wrong] == [401, 401, 429]


def test_while_the_database_is_away_it_says_503_and_then_answers_again(serve, history, make_key, database) -> None:
    headers = make_key(history("acme"))
    woken: list[bool] = []
    away = Database(conninfos={**database.conninfos, "stats": "host=/nowhere port=1"}, wake=lambda: woken.append(True))
    pool = ReadPool(away, timeout_s=1)
    with serve(create_app(pool)) as client:
        answer = client.get("/api/v2/stats/acme/overview", headers=headers)
        assert_error(answer, 503, "unavailable")
        assert answer.headers["retry-after"] and woken
        assert_error(client.get("/health"), 503, "unavailable")
        pool._pool.conninfo = database.conninfo("stats")
        deadline = time.monotonic() + 120  # a busy machine may not give a connection within the second
        while client.get("/api/v2/stats/acme/overview", headers=headers).status_code != 200:
            assert time.monotonic() < deadline
        assert client.get("/health").json()["status"] == "ok"


def test_the_documentation_needs_nothing_from_outside(client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert not re.findall(r"https?://", page.text)
    for place in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if not place.startswith("data:"):
            assert client.get(place).status_code == 200, place
    openapi = client.get("/openapi.json").json()
    assert openapi["info"]["title"] == "mailmill statistics"
    for path, item in openapi["paths"].items():
        if path != "/health":
            for status in ("401", "403", "404", "422", "429", "500", "503"):
                schema = item["get"]["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Error"}
