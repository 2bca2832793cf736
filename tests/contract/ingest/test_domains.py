"""What DNS said, kept in PostgreSQL once a domain, and read back as a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mailmill.io.postgres import domains
from mailmill.io.postgres.database import Database
from mailmill.pipelines.ingest.domains import DOMAINS_SCHEMA, Answer, settled

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def keep(database: Database, *answers: Answer, now: datetime = NOW) -> int:
    with database.transaction() as conn:
        before = domains.find(conn, [answer.domain for answer in answers])
        return domains.keep(conn, [settled(before.get(a.domain), a, now) for a in answers])


def test_an_answer_is_kept_once_and_a_change_is_dated(database: Database) -> None:
    with database.transaction() as conn:
        assert domains.table(conn).schema == DOMAINS_SCHEMA
    google = Answer(domain="a.org", state="mx", exchangers=("aspmx.l.google.com",), ttl_s=7200)
    assert keep(database, google, Answer(domain="b.org", state="not_found")) == 2
    with database.transaction() as conn:
        first = domains.table(conn).sort("domain")
        assert first.schema == DOMAINS_SCHEMA
    assert first.select("domain", "state", "provider").rows() == [
        ("a.org", "mx", "google"),
        ("b.org", "not_found", None),
    ]
    assert keep(database, google, now=NOW + timedelta(hours=3)) == 0
    with database.transaction() as conn:
        again = domains.table(conn).sort("domain")
        assert again.equals(first), "the same answer is no change"
        assert domains.find(conn, ["a.org"])["a.org"].expires_at == NOW + timedelta(hours=5)
    assert keep(database, Answer(domain="a.org", state="null_mx"), now=NOW + timedelta(hours=6)) == 1
    with database.transaction() as conn:
        later = domains.table(conn).sort("domain")
        assert later["state"].to_list() == ["null_mx", "not_found"]
        assert (later["changed_at"] > again["changed_at"]).to_list() == [True, False]


def test_an_older_answer_never_replaces_a_newer_one(database: Database) -> None:
    keep(database, Answer(domain="a.org", state="mx", ttl_s=60))
    assert keep(database, Answer(domain="a.org", state="not_found"), now=NOW - timedelta(minutes=1)) == 0
    with database.transaction() as conn:
        assert domains.find(conn, ["a.org"])["a.org"].state == "mx"
