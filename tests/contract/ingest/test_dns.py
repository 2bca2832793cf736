"""The resolver against a real DNS server: every kind of answer, and every kind of none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dns_server import SOA_MINIMUM, Zone, serving

from mailmill.errors import Misconfigured
from mailmill.io.dns import DnsResolver, Server, servers
from mailmill.pipelines.ingest.domains import Answer

ZONE = {
    "mx.org": [("MX", "20 b.google.com"), ("MX", "10 ASPMX.L.google.com")],
    "null.org": [("MX", "0 .")],
    "host.org": [("A", "192.0.2.1")],
    "six.org": [("AAAA", "2001:db8::1")],
    "bare.org": [],
    "alias.org": [("CNAME", "mx.org")],
    "broken-alias.org": [("CNAME", "nowhere.org")],
    "local.org": [("MX", "0 localhost"), ("MX", "5 127.0.0.1")],
    "mixed.org": [("MX", "0 ."), ("MX", "5 mail.mixed.org")],
    "large.org": [("MX", f"{n} mx{n}.a-rather-long-name-of-a-mail-exchanger.large.org") for n in range(40)],
}


def resolver(*ports: int, **settings: float) -> DnsResolver:
    at = tuple(Server(address="127.0.0.1", port=port) for port in ports)
    return DnsResolver(servers=at, **{"timeout_s": 20.0, **settings})  # type: ignore[arg-type]


def one(domain: str, *ports: int, **settings: float) -> Answer:
    [answer] = resolver(*ports, **settings).lookup([domain])
    return answer


@pytest.mark.parametrize(
    ("domain", "state", "exchangers"),
    [
        ("mx.org", "mx", ("aspmx.l.google.com", "b.google.com")),
        ("alias.org", "mx", ("aspmx.l.google.com", "b.google.com")),
        ("null.org", "null_mx", ()),
        ("host.org", "implicit_mx", ("host.org",)),
        ("six.org", "implicit_mx", ("six.org",)),
        ("bare.org", "no_mail", ()),
        ("local.org", "no_mail", ()),
        ("mixed.org", "mx", ("mail.mixed.org",)),
        ("gone.org", "not_found", ()),
        ("broken-alias.org", "not_found", ()),
        ("a" * 64 + ".org", "not_found", ()),
    ],
)
def test_F17_what_dns_says_of_a_domain(domain: str, state: str, exchangers: tuple[str, ...]) -> None:
    with serving(Zone(ZONE)) as port:
        found = one(domain, port)
    assert (found.domain, found.state, found.exchangers, found.problem) == (domain, state, exchangers, None)


@pytest.fixture
def reached() -> Iterator[list[tuple[int, tuple[str, int]]]]:
    """From which port this process connects or sends to whom, as Python's own audit sees it."""
    found: list[tuple[int, tuple[str, int]]] = []
    open_ = True

    def hear(event: str, facts: tuple[Any, ...]) -> None:  # a hook cannot be taken back, only be silent
        if open_ and event in ("socket.connect", "socket.sendto") and isinstance(facts[1], tuple):
            found.append((facts[0].getsockname()[1], facts[1][:2]))

    sys.addaudithook(hear)
    yield found
    open_ = False


@pytest.mark.parametrize(
    ("records", "state"),
    [
        ({"inner.org": [("MX", "10 mail.inner.org")], "mail.inner.org": [("A", "10.0.0.5")]}, "mx"),
        ({"inner.org": [("MX", "10 mail.inner.org")], "mail.inner.org": [("A", "127.0.0.1")]}, "mx"),
        ({"inner.org": [("A", "127.0.0.1")]}, "implicit_mx"),
        ({"inner.org": [("AAAA", "::1")]}, "implicit_mx"),
        ({"inner.org": [("MX", "10 169.254.169.254")]}, "no_mail"),
        ({"inner.org": [("MX", "10 localhost")]}, "no_mail"),
    ],
)
def test_F17_whatever_DNS_answers_nobody_is_reached_but_the_DNS_server(
    reached: list[tuple[int, tuple[str, int]]], records: dict[str, list[tuple[str, str]]], state: str
) -> None:
    with serving(Zone(records)) as port:
        found = one("inner.org", port)
    assert found.state == state
    assert {there for own, there in reached if own != port} == {("127.0.0.1", port)}, "but for the server's answers"


def test_the_ttl_is_that_of_the_answer_or_of_its_absence() -> None:
    with serving(Zone(ZONE, ttl=1234)) as port:
        assert one("mx.org", port).ttl_s == 1234
        assert one("gone.org", port).ttl_s == one("bare.org", port).ttl_s == SOA_MINIMUM


def test_a_truncated_answer_is_asked_for_again_by_tcp() -> None:
    zone = Zone(ZONE, trouble={"large.org": ["truncate"]})
    with serving(zone) as port:
        found = one("large.org", port)
    assert found.state == "mx" and len(found.exchangers) == 40
    assert zone.asked == {"MX large.org udp": 1, "MX large.org tcp": 1}


@pytest.mark.parametrize(
    ("trouble", "problem"),
    [
        ("always servfail", "servfail"),
        ("always silent", "timeout"),
        ("refused", "refused"),
        ("garbage", "timeout"),
        ("referral", "referral"),
    ],
)
def test_F17_no_answer_is_unknown_and_says_why(trouble: str, problem: str) -> None:
    zone = Zone(ZONE, trouble={"mx.org": [trouble] * 2})
    with serving(zone) as port:
        found = one("mx.org", port, timeout_s=1.5 if problem == "timeout" else 20.0)
    assert (found.state, found.problem) == ("unknown", problem)
    assert zone.asked["MX mx.org udp"] == 2, "asked twice, then left for later"


@pytest.mark.parametrize("trouble", ["servfail", "silent", "refused"])
def test_F17_a_server_that_fails_once_is_asked_again(trouble: str) -> None:
    with serving(Zone(ZONE, trouble={"mx.org": [trouble]})) as port:
        assert one("mx.org", port, timeout_s=3.0 if trouble == "silent" else 20.0).state == "mx"


def test_a_server_that_is_down_costs_one_time_out_and_the_next_one_answers() -> None:
    with serving(Zone(ZONE)) as gone:
        pass
    with serving(Zone(ZONE)) as port:
        assert one("mx.org", gone, port, timeout_s=3.0).state == "mx"


def test_F17_a_silent_server_is_asked_after_the_others_until_it_answers_again() -> None:
    names = [f"d{n}.org" for n in range(50)]
    records = {name: [("MX", "10 mx.org")] for name in names}
    one, other = Zone({**records}), Zone({**records})  # type: ignore[dict-item]
    one.trouble.update({name: ["always silent"] for name in names})
    with serving(one) as first, serving(other) as second:
        both = resolver(first, second, timeout_s=3.0, concurrency=10)
        assert {answer.state for answer in both.lookup(names)} == {"mx"}
        assert one.asked.total() < 30, "by those that were under way already, not by each"
        one.trouble.clear()
        other.trouble["d0.org"] = ["silent"]
        one.asked.clear()
        assert [answer.state for answer in both.lookup(["d0.org"]) + both.lookup(["d1.org"])] == ["mx", "mx"]
        assert set(one.asked) == {"MX d0.org udp", "MX d1.org udp"}


def test_a_host_record_that_does_not_answer_leaves_the_domain_unknown() -> None:
    class OnlyMx(Zone):
        def resolve(self, request, handler):  # type: ignore[no-untyped-def]
            if request.q.qtype == 1:
                self.trouble["host.org"] = ["servfail"]
            return super().resolve(request, handler)

    with serving(OnlyMx(ZONE)) as port:
        assert one("host.org", port).state == "unknown"


def test_F17_silence_of_many_domains_holds_up_nobody_else() -> None:
    names = [f"slow{n}.org" for n in range(40)] + ["mx.org"]
    zone = Zone(ZONE, trouble={name: ["always silent"] for name in names[:40]})
    with serving(zone) as port:
        began = time.perf_counter()
        found = resolver(port, timeout_s=1.5).lookup(names)
    assert [answer.state for answer in found] == ["unknown"] * 40 + ["mx"]
    assert time.perf_counter() - began < 60, "forty time-outs side by side, not one after the other"


def test_two_thousand_domains_get_each_its_own_answer() -> None:
    wanted = {f"d{n}.org": [("MX", f"10 mx{n}.org")] for n in range(2_000)}
    with serving(Zone({**wanted})) as port:  # type: ignore[dict-item]
        began = time.perf_counter()
        found = resolver(port, timeout_s=60.0).lookup(list(wanted))
        took = time.perf_counter() - began
    assert [answer.domain for answer in found] == list(wanted)
    for n, answer in enumerate(found):
        assert answer.exchangers == (f"mx{n}.org",), answer
    print(f"{len(found) / took:,.0f} domains/s")


def test_nothing_to_ask_asks_nobody() -> None:
    assert resolver(1).lookup([]) == []


def test_the_setting_names_servers() -> None:
    assert servers("") == ()
    assert servers("127.0.0.1:5353, [::1]:53,192.0.2.1, localhost:54")[:3] == (
        Server(address="127.0.0.1", port=5353), Server(address="::1", port=53), Server(address="192.0.2.1", port=53),
    )  # fmt: skip
    for wrong in ("127.0.0.1:x", ":53", "127.0.0.1:70000", "[::1]x:5"):
        with pytest.raises(Misconfigured, match="MAILMILL_RESOLVER"):
            servers(wrong)
