"""Where a source may be read from, and how long an API asks to wait."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from mailmill.io.sources import connections


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
     "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b:1::1",
     "64:ff9b::7f00:1", "ff02::1"],
)  # fmt: skip
def test_F17_a_private_address_is_no_place_for_a_source(address: str) -> None:
    assert not connections.allowed("api.example", address, ())


@pytest.mark.parametrize(
    ("host", "address", "private", "may"),
    [
        ("api.example", "93.184.216.34", (), True),
        ("api.example", "2606:2800:220:1:248:1893:25c8:1946", (), True),
        ("127.0.0.1", "127.0.0.1", ("127.0.0.1",), True),
        ("127.0.0.1", "127.0.0.1", ("10.0.0.0/8",), False),
        ("crm.internal", "10.2.3.4", ("10.2.0.0/16",), True),
        ("CRM.internal.", "10.2.3.4", ("crm.internal",), True),
        ("evil.example", "10.2.3.4", ("crm.internal",), False),
        ("v6", "fd00::5", ("fd00::/8",), True),
    ],
)
def test_F17_what_the_operator_allows_may_be_private(
    host: str, address: str, private: tuple[str, ...], may: bool
) -> None:
    assert connections.allowed(host, address, private) is may


def test_F17_a_name_that_leads_to_a_private_address_is_refused_though_another_of_its_addresses_is_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS is others': what it says is the one thing here that a test has to say in its place."""
    asked: list[str] = []

    def said(host: str, port: int, **kind: object) -> list[object]:
        asked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in ("93.184.216.34", "169.254.169.254")]

    monkeypatch.setattr(socket, "getaddrinfo", said)
    with httpx.Client(transport=connections.transport(())) as client, pytest.raises(connections.Refused) as caught:
        client.get("http://metadata.example/")
    assert str(caught.value) == "metadata.example is 169.254.169.254, which is no public address"
    assert asked == ["metadata.example"]


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, 0), ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "60"}, 0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}, 60),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "7"}, 7),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"}, 0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()) - 5)}, 0),
    ],
)  # fmt: skip
def test_a_used_up_limit_says_how_long(headers: dict[str, str], wait_s: float) -> None:
    assert connections.used_up_s(httpx.Headers(headers)) == wait_s


def test_a_limit_may_be_told_as_a_time() -> None:
    headers = httpx.Headers({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()) + 30)})
    assert 28 < connections.used_up_s(headers) <= 30
