"""The generic webhook over HTTP."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import psycopg

AT = "2026-11-20T10:00:00Z"


def a_bounce(world: Any, message: int = 1, **changed: Any) -> dict[str, Any]:
    return {
        "message": world.message_id(message),
        "type": "bounced",
        "at": AT,
        "code": 550,
        "enhanced": "5.1.1",
        **changed,
    }


def test_P16_an_answer_of_success_means_the_events_are_on_the_log(ingress: Any) -> None:
    answer = ingress.post_events([a_bounce(ingress.world, n) for n in range(1, 11)])
    assert (answer.status_code, answer.json()) == (200, {"accepted": 10, "orphans": 0})
    events = ingress.world.events()
    assert {(event["kind"], event["reason"], event["tenant"]) for event in events} == {
        ("bounced_hard", "bad_mailbox", 1)
    }
    assert sorted(event["message"] for event in events) == list(range(1, 11))


def test_F28_a_hundred_replays_are_one_event(ingress: Any) -> None:
    events = [a_bounce(ingress.world, 1, id="x1"), a_bounce(ingress.world, 2)]
    body = json.dumps(events).encode()
    for _ in range(100):
        assert ingress.post_events(None, body=body).status_code == 200
    found = ingress.world.events()
    assert len(found) == 200
    assert len({event["event_id"] for event in found}) == 2


WRONG: list[tuple[dict[str, Any], int]] = [
    ({"secret": "another"}, 401),
    ({"signature": "t=1,v1=00"}, 401),
    ({"headers": {"X-Mailmill-Signature": ""}}, 401),
    ({"at": int(time.time()) - 400}, 401),
    ({"at": int(time.time()) + 4000}, 401),
    ({"path": "/webhooks/beta/relay"}, 401),  # the other tenant's secret is another one
    ({"path": "/webhooks/acme/none"}, 404),
    ({"path": "/webhooks/acme/mute"}, 404),  # a transport without a secret takes nothing
    ({"path": "/webhooks/none/relay"}, 404),
    ({"path": "/webhooks/har%00bor/relay"}, 404),
    ({"path": "/webhooks/acme/re%00lay"}, 404),
    ({"path": "/webhooks/acme%0A/relay"}, 404),
    ({"path": "/webhooks/" + "a" * 64 + "/relay"}, 404),
    ({"headers": {"Content-Type": "text/plain"}}, 415),
    ({"headers": {"Content-Encoding": "gzip"}, "body": gzip.compress(b"[" + b" " * 10**6 + b"]")}, 415),
    ({"body": b"[" + b" " * 20_000_000 + b"]"}, 413),
    ({"body": b"[" + b" " * 1_000_001 + b"]"}, 413),
    ({"body": b'{"a": 1}'}, 422),
    ({"body": b"not json"}, 422),
]


def test_F29_what_is_not_as_it_has_to_be_is_refused_and_leaves_only_a_count(ingress: Any) -> None:
    for number, (wrong, status) in enumerate(WRONG, 1):
        answer = ingress.post_events([a_bounce(ingress.world)], **wrong)
        assert answer.status_code == status, wrong.keys()
        assert sum(ingress.health()["webhooks_refused"].values()) == number
    assert ingress.world.events() == []


def test_F29_what_PostgreSQL_does_not_take_is_the_request_s_fault(ingress: Any, monkeypatch: Any) -> None:
    def ask(tenant: str, transport: str) -> None:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")

    monkeypatch.setattr(ingress.app.state.services.directory, "webhook", ask)
    answer = ingress.post_events([a_bounce(ingress.world)])
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


def test_F29_one_byte_changed_after_signing_is_refused(ingress: Any) -> None:
    from mailmill.pipelines.listen.webhooks import signature

    body = json.dumps([a_bounce(ingress.world)]).encode()
    signed = signature("a-secret-of-the-test" + "acme", body, int(time.time()))
    assert ingress.post_events(None, body=body.replace(b"5.1.1", b"5.1.2"), signature=signed).status_code == 401
    assert ingress.post_events(None, body=body, signature=signed).status_code == 200


def test_F29_a_body_without_an_announced_length_is_measured_too(ingress: Any) -> None:
    pieces = (b"[" if n == 0 else b" " * 65_536 for n in range(100))
    headers = {"Content-Type": "application/json", "X-Mailmill-Signature": "t=1,v1=" + "0" * 64}
    answer = ingress.client.post("/webhooks/acme/relay", content=pieces, headers=headers)
    assert answer.status_code == 413


def test_one_malformed_event_refuses_the_whole_body_and_is_named(ingress: Any) -> None:
    answer = ingress.post_events([a_bounce(ingress.world), a_bounce(ingress.world, at="yesterday")])
    assert answer.status_code == 422
    assert answer.json()["error"]["detail"] == {"index": 1, "field": "at"}
    assert ingress.world.events() == []


def test_P22_a_tenant_reports_about_its_own_messages_only(ingress: Any) -> None:
    world = ingress.world
    foreign = {**a_bounce(world), "message": world.message_id(1001, tenant=2, campaign=2)}
    unknown = {**a_bounce(world), "message": "<somebody@else.example>"}
    answer = ingress.post_events([foreign, unknown, a_bounce(world, 3)])
    assert answer.json() == {"accepted": 1, "orphans": 2}
    assert [event["message"] for event in world.events()] == [3]
    assert ingress.health()["webhook_orphans"] == 2


def test_P22_the_ingress_role_sees_one_tenant_and_none_without_one(ingress: Any) -> None:
    from mailmill.io.postgres.ingress_pool import IngressPool

    pool = IngressPool(ingress.world.database)
    for tenant, wanted in ((1, {1}), (2, {2}), (None, set())):
        with pool.transaction(tenant_id=tenant) as conn:
            for table in ("messages", "campaigns", "links", "transports"):
                seen = {row[0] for row in conn.execute(f"SELECT DISTINCT tenant_id FROM {table}")}  # type: ignore[call-overload]
                assert seen == wanted, (tenant, table)
            assert {row[0] for row in conn.execute("SELECT id FROM tenants")} == wanted
    pool.close()


def test_a_link_may_be_named_by_its_url(ingress: Any) -> None:
    world = ingress.world
    click = {"message": world.message_id(4), "type": "clicked", "at": AT, "link": "https://shop.example/b"}
    assert ingress.post_events([click]).json() == {"accepted": 1, "orphans": 0}
    assert [(event["kind"], event["link"]) for event in world.events()] == [("clicked", 1)]
