"""Pixel and click over HTTP: what is answered, and what is counted."""

from __future__ import annotations

import time
from typing import Any

from mailmill.pipelines.send.tokens import NOBODY

NETWORK = "127.0.0.0"


def test_P16_a_pixel_is_counted_within_a_second(ingress: Any, until: Any) -> None:
    answer = ingress.client.get(f"/o/{ingress.world.token('open', message=7)}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/gif"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    (event,) = until(ingress.world.events)
    assert (event["kind"], event["tenant"], event["campaign"], event["message"]) == ("opened", 1, 1, 7)
    assert (event["ip"], event["link"], len(event["event_id"])) == (NETWORK, None, 32)
    assert event["user_agent"].startswith("Mozilla/5.0")

    def counted_after(n: int) -> float:
        began = time.monotonic()
        ingress.client.get(f"/o/{ingress.world.token('open', message=n)}")
        until(lambda: len(ingress.world.events()) == n)
        return time.monotonic() - began

    assert any(counted_after(n) < 1.0 for n in range(2, 22)), "the fastest of twenty: a machine may be busy"


def test_a_pixel_looks_the_same_whatever_its_token_is(ingress: Any) -> None:
    good = ingress.client.get(f"/o/{ingress.world.token('open')}")
    for bad in ("x", "A" * 40, "%00", "a" * 5000, "..%2f..", "%F0%9F%98%80", "-" * 40):
        answer = ingress.client.get(f"/o/{bad}")
        assert (answer.status_code, answer.content) == (200, good.content)
        assert {**answer.headers, "date": ""} == {**good.headers, "date": ""}


def test_a_click_leads_to_the_stored_link(ingress: Any, until: Any) -> None:
    answer = ingress.client.get(f"/c/{ingress.world.token('click', link=1)}")
    assert (answer.status_code, answer.headers["location"]) == (302, "https://shop.example/b")
    assert (answer.headers["referrer-policy"], answer.headers["cache-control"]) == ("no-referrer", "no-store")
    (event,) = until(ingress.world.events)
    assert (event["kind"], event["link"]) == ("clicked", 1)


def test_F47_a_click_goes_nowhere_but_to_a_stored_web_page(ingress: Any) -> None:
    world = ingress.world
    good = world.token("click")
    changed = ("B" if good[20] != "B" else "C").join((good[:20], good[21:]))
    bad = {
        "tampered": changed,
        "truncated": good[:-1],
        "of the pixel": world.token("open"),
        "of an unsubscribe": world.token("unsubscribe"),
        "to a script": world.token("click", link=2),
        "to another host by //": world.token("click", link=3),
        "of a campaign that this tenant does not have": world.token("click", tenant=1, campaign=2),
        "with a line break": good + "%0d%0aLocation:%20https://evil.example",
        "with a target": good + "?url=https://evil.example",
    }
    for name, token in bad.items():
        answer = ingress.client.get(f"/c/{token}")
        if name == "with a target":
            assert answer.headers["location"] == "https://shop.example/a?x=1&y=2"
            continue
        assert answer.status_code == 404, name
        assert "location" not in answer.headers, name


def test_a_click_before_its_campaign_began_makes_no_link_of_it_unknown(ingress: Any) -> None:
    """Somebody opens a preview's file and follows a link; the campaign is started a minute later."""
    world = ingress.world
    path = f"/c/{world.token('click')}"
    with world.database.transaction() as conn:
        conn.execute("DELETE FROM links WHERE campaign_id = 1")
    assert ingress.client.get(path).status_code == 404
    with world.database.transaction() as conn:
        conn.execute("INSERT INTO links VALUES (1, 0, 1, 'https://shop.example/new')")
    assert ingress.client.get(path).headers["location"] == "https://shop.example/new"


def test_of_a_preview_or_a_test_nothing_is_counted_and_nobody_unsubscribed(ingress: Any, until: Any) -> None:
    """Its message is none of the ledger: an event of it would be a dead letter."""
    world, client = ingress.world, ingress.client
    assert client.get(f"/o/{world.token('open', message=NOBODY)}").status_code == 200
    assert client.get(f"/c/{world.token('click', message=NOBODY)}").status_code == 302
    leave = client.post(f"/u/{world.token('unsubscribe', message=NOBODY)}", data={"List-Unsubscribe": "One-Click"})
    assert leave.status_code == 200 and "nobody is unsubscribed" in leave.text
    report = {"message": world.message_id(NOBODY), "type": "delivered", "at": "2026-11-20T10:00:00Z"}
    assert ingress.post_events([report]).json() == {"accepted": 0, "orphans": 0}
    client.get(f"/o/{world.token('open', message=7)}")
    (event,) = until(world.events)
    assert event["message"] == 7 and not world.suppressed()


def test_F48_machines_are_kept_apart_and_HEAD_counts_nothing(ingress: Any, until: Any) -> None:
    world, client = ingress.world, ingress.client
    for path in (f"/o/{world.token('open')}", f"/c/{world.token('click')}", f"/u/{world.token('unsubscribe')}"):
        assert client.head(path).status_code in (200, 302)
    client.get(f"/o/{world.token('open', message=1)}", headers={"User-Agent": "Mozilla/5.0"})
    google = {"User-Agent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"}
    client.get(f"/o/{world.token('open', message=2)}", headers=google)
    client.get(f"/c/{world.token('click', message=3)}", headers={"User-Agent": "Barracuda Sentinel"})
    events = until(lambda: len(found := world.events()) == 3 and found)
    kinds = {event["message"]: event["kind"] for event in events}
    assert kinds == {1: "machine_opened", 2: "machine_opened", 3: "machine_clicked"}
    assert world.suppressed() == []


def test_a_new_key_is_known_before_its_first_token_is_refused(ingress: Any, until: Any) -> None:
    from mailmill.io.postgres import keys
    from mailmill.pipelines.send.tokens import Key

    world = ingress.world
    with world.database.transaction() as conn:
        number = keys.rotate(conn, "tracking")
        world.signing["tracking"] = Key(number, keys.usable(conn, "tracking")[number])
    until(lambda: ingress.client.get(f"/c/{world.token('click')}").status_code == 302)


def test_no_documentation_and_no_other_method_is_offered(ingress: Any) -> None:
    for path in ("/docs", "/openapi.json", "/redoc", "/", "/webhooks/acme"):
        assert ingress.client.get(path).status_code == 404, path
    assert ingress.client.put(f"/c/{ingress.world.token('click')}").status_code == 405
