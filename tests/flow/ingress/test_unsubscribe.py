"""One-click unsubscribe over HTTP (RFC 8058)."""

from __future__ import annotations

from typing import Any

ONE_CLICK = {"List-Unsubscribe": "One-Click"}


def test_F44_one_click_suppresses_in_the_request_and_twice_is_once(ingress: Any) -> None:
    world = ingress.world
    path = f"/u/{world.token('unsubscribe', message=5)}"
    for _ in range(2):
        answer = ingress.client.post(path, data=ONE_CLICK)
        assert (answer.status_code, answer.history) == (200, [])
        assert "set-cookie" not in answer.headers
        assert world.suppressed() == [(1, "m5@acme", "unsubscribed")]
    ids = {event["event_id"] for event in world.events()}
    assert {event["kind"] for event in world.events()} == {"unsubscribed"}
    assert len(ids) == 1


def test_F44_multipart_is_taken_too(ingress: Any) -> None:
    answer = ingress.client.post(
        f"/u/{ingress.world.token('unsubscribe')}", files={"List-Unsubscribe": (None, "One-Click")}
    )
    assert answer.status_code == 200
    assert len(ingress.world.suppressed()) == 1


def test_F44_looking_changes_nothing(ingress: Any) -> None:
    path = f"/u/{ingress.world.token('unsubscribe')}"
    for method in ("GET", "HEAD"):
        answer = ingress.client.request(method, path)
        assert answer.status_code == 200
    page = ingress.client.get(path)
    assert 'name="List-Unsubscribe" value="One-Click"' in page.text
    assert "acme &lt;Ltd&gt;" in page.text
    assert "<script" not in page.text and "set-cookie" not in page.headers
    assert page.headers["cache-control"] == "no-store"
    assert (ingress.world.suppressed(), ingress.world.events()) == ([], [])


def test_F44_a_bad_token_is_no_page_and_nothing_else_either(ingress: Any) -> None:
    world = ingress.world
    good = world.token("unsubscribe")
    bad = [
        good[:-1],
        "A" + good[1:] if good[0] != "A" else "B" + good[1:],
        world.token("open"),
        world.token("click"),
        "x",
    ]
    for token in bad:
        assert ingress.client.get(f"/u/{token}").status_code == 404
        assert ingress.client.post(f"/u/{token}", data=ONE_CLICK).status_code == 404
    for cut in ("/u/", "/u", "/"):
        page = ingress.client.get(cut)
        assert page.status_code == 404 and "follow it from the mail again" in page.text
    assert ingress.client.post("/webhooks/acme", json=[]).json()["error"]["code"] == "not_found"
    assert (world.suppressed(), world.events()) == ([], [])


def test_P22_a_token_suppresses_in_its_own_tenant_only(ingress: Any) -> None:
    world = ingress.world
    foreign = world.token("unsubscribe", message=1001, tenant=1, campaign=1)  # 1001 is the second tenant's message
    assert (
        ingress.client.post(f"/u/{foreign}", data=ONE_CLICK).status_code == 200
    )  # noted; the fold finds no such message
    assert world.suppressed() == []
    assert ingress.client.post(
        f"/u/{world.token('unsubscribe', 1001, tenant=2, campaign=2)}", data=ONE_CLICK
    ).is_success
    assert world.suppressed() == [(2, "m1@beta", "unsubscribed")]


FORMS: list[tuple[dict[str, str], bytes, int]] = [
    ({"Content-Type": "application/x-www-form-urlencoded"}, b"", 400),
    ({"Content-Type": "application/x-www-form-urlencoded"}, b"List-Unsubscribe=Maybe", 400),
    ({"Content-Type": "application/json"}, b'{"List-Unsubscribe": "One-Click"}', 400),
    ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x\r\nbroken", 400),
    ({"Content-Type": "multipart/form-data"}, b"List-Unsubscribe=One-Click", 400),
    ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=" + b"x" * 20_000, 400),
    ({}, b"List-Unsubscribe=One-Click", 200),
]


def test_only_the_one_click_form_unsubscribes(ingress: Any) -> None:
    for headers, body, status in FORMS:
        answer = ingress.client.post(f"/u/{ingress.world.token('unsubscribe')}", content=body, headers=headers)
        assert answer.status_code == status, headers
        assert len(ingress.world.suppressed()) == (status == 200)
