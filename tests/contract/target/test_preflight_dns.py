"""Preflight over a real DNS server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dns_server import Zone, serving

from mailmill.io.dns import DnsResolver, servers
from mailmill.pipelines.target.preflight import DkimRecord, Sender, check, failures
from mailmill.pipelines.target.records import DnsSilent

KEY = DkimRecord(name="m1._domainkey.acme.example", domain="acme.example", text=f"v=DKIM1; k=rsa; p={'Ab9+' * 98}")
SENDER = Sender(
    from_domain="acme.example",
    return_path_domain="bounce.acme.example",
    dkim=(KEY,),
    public_url="https://t.acme.example",
)


def zone() -> Zone:
    return Zone(records={
        "bounce.acme.example": [("TXT", "v=spf1 ip4:192.0.2.1 -all"), ("MX", "10 mx.acme.example")],
        "m1._domainkey.acme.example": [("TXT", KEY.text)],
        "_dmarc.acme.example": [("TXT", "v=DMARC1; p=none")],
        "mx.acme.example": [("A", "192.0.2.25")],
        "t.acme.example": [("CNAME", "proxy.acme.example")], "proxy.acme.example": [("AAAA", "2001:db8::1")],
    })  # fmt: skip


def resolver(port: int, timeout_s: float = 20.0) -> DnsResolver:
    return DnsResolver(servers=servers(f"127.0.0.1:{port}"), timeout_s=timeout_s, rounds=1)


def test_a_domain_that_is_set_up_passes_over_the_wire() -> None:
    with serving(zone()) as port:
        findings = check(SENDER, resolver(port))
    assert failures(findings) == "" and {one.level for one in findings} == {"ok"}


KEY_AT, P = KEY.name, str(KEY.text).partition("p=")[2]
BOUNCES = "bounce.acme.example"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Zone, DnsResolver]]:
    asked = zone()
    with serving(asked) as port:
        yield asked, resolver(port)


@pytest.mark.parametrize(
    ("check_", "name", "records", "words"),
    [("DKIM", KEY_AT, [("TXT", f"v=DKIM2; k=rsa; p={P}")], "v= is not DKIM1"),
     ("DKIM", KEY_AT, [("TXT", f"v=dkim1; k=rsa; p={P}")], "v= is not DKIM1"),
     ("DKIM", KEY_AT, [("TXT", f"k=rsa; v=DKIM1; p={P}")], "does not stand first"),
     ("DKIM", KEY_AT, [("TXT", f"v=DKIM1; k=ed25519; p={P}")], "k=ed25519"),
     ("DKIM", KEY_AT, [("TXT", f"v=DKIM1; h=sha1; p={P}")], "h=sha1"),
     ("DKIM", KEY_AT, [("TXT", f"v=DKIM1; s=tlsrpt; p={P}")], "s=tlsrpt"),
     ("DKIM", KEY_AT, [("TXT", f"v=DKIM1; p={P}; p={P}")], "no list of tags"),
     ("DKIM", KEY_AT, [("TXT", KEY.text), ("TXT", "v=DKIM1; p=old+")], "2 TXT records"),
     ("DMARC", "_dmarc.acme.example", [("TXT", "v=dmarc1; p=none")], "v=dmarc1; p=none"),
     ("DMARC", "_dmarc.acme.example", [("TXT", "p=none; v=DMARC1")], "does not begin with v=DMARC1;"),
     ("SPF", BOUNCES, [("TXT", "v=spf1 a:nothing.example -all"), ("MX", "10 mx.acme.example")], "a:nothing.example"),
     ("return path", "mx.acme.example", [], "mx.acme.example has no address"),
     ("return path", "mx.acme.example", [("A", "127.0.0.1")], "mx.acme.example has no address that others reach"),
     ("tracking host", "t.acme.example", [("A", "127.0.0.1")], "127.0.0.1, which others do not reach"),
     ("tracking host", "t.acme.example", [("A", "192.0.2.1"), ("AAAA", "::1")], "which others do not reach")],
)  # fmt: skip
def test_what_receivers_do_not_take_fails_with_the_record_to_publish(
    served: tuple[Zone, DnsResolver], check_: str, name: str, records: list[tuple[str, str]], words: str
) -> None:
    asked, dns = served
    asked.records = {**zone().records, name: records}
    (bad,) = [one for one in check(SENDER, dns) if one.level != "ok"]
    assert (bad.check, bad.level) == (check_, "failed") and words in bad.found
    assert bad.publish.startswith((name, BOUNCES)) and (check_ != "DKIM" or KEY.text in bad.publish)


def test_a_key_that_is_there_for_testing_is_a_warning(served: tuple[Zone, DnsResolver]) -> None:
    asked, dns = served
    asked.records = {**zone().records, KEY_AT: [("TXT", f"v=DKIM1; t=s:y; p={P}")]}
    (odd,) = [one for one in check(SENDER, dns) if one.level != "ok"]
    assert (odd.check, odd.level) == ("DKIM", "warning") and "t=y" in odd.found and KEY.text in odd.publish


def test_a_host_without_mx_takes_its_mail_itself(served: tuple[Zone, DnsResolver]) -> None:
    """RFC 5321 5.1: the implicit MX."""
    asked, dns = served
    asked.records = {**zone().records, BOUNCES: [("TXT", "v=spf1 a -all"), ("AAAA", "2001:db8::25")]}
    assert {one.level for one in check(SENDER, dns)} == {"ok"}


def test_an_answer_too_long_for_a_packet_comes_by_tcp() -> None:
    tried = zone()
    tried.trouble["m1._domainkey.acme.example"] = ["truncate"]
    with serving(tried) as port:
        assert failures(check(SENDER, resolver(port))) == ""
    assert tried.asked["TXT m1._domainkey.acme.example tcp"] == 1


def test_what_is_missing_is_named_with_the_record_to_publish() -> None:
    with serving(Zone(records={"bounce.acme.example": [("MX", "0 .")]})) as port:
        said = failures(check(SENDER, resolver(port)))
    for part in ("return path", "v=spf1", KEY.text, "v=DMARC1; p=none", "t.acme.example. A"):
        assert part in said


@pytest.mark.parametrize("trouble", ["always servfail", "always silent"])
def test_a_silent_server_says_nothing_of_the_identity(trouble: str) -> None:
    tried = zone()
    tried.trouble["_dmarc.acme.example"] = [trouble]
    with serving(tried) as port, pytest.raises(DnsSilent, match=r"_dmarc\.acme\.example"):
        check(SENDER, resolver(port, timeout_s=1.5))


# ---------------------------------------------------------------- before a campaign starts


OURS = {"selector": "m1", "domain": "acme.example", "key": "file:key", "algorithm": "ed25519"}
RELAYS = {"selector": "s1", "domain": "acme.example"}


def to_a_relay(world, *dkim) -> None:
    """The project's campaign goes to a relay now, signed."""
    of = {"tenant": "acme"}
    world.apply(
        {"kind": "transport", **of, "slug": "relay", "type": "smtp", "host": "127.0.0.1", "port": 9, "tls": "none"},
        {"kind": "identity", **of, "slug": "news", "from_name": "Acme News", "from_address": "news@acme.example",
         "return_path_domain": "b.acme.example", "dkim": dkim},
    )  # fmt: skip


def test_a_campaign_of_a_failing_identity_is_refused_with_the_records_to_publish(world):
    to_a_relay(world, OURS, RELAYS)
    with serving(Zone()) as port:
        world.resolver = resolver(port)
        (planned,) = world.start()
    assert planned.state == "failed" and world.state() == "failed"
    for part in (
        "v=spf1",
        'm1._domainkey.acme.example. TXT "v=DKIM1; k=ed25519; p=key"',
        "s1._domainkey.acme.example. <",
        "preflight acme/news",
    ):
        assert part in str(planned.reason)
    assert world.value("SELECT count(*) FROM messages") == 0


@pytest.mark.parametrize("dkim", [(OURS,), (RELAYS,), (OURS, RELAYS), ()], ids=["ours", "relays", "both", "none"])
def test_a_campaign_of_an_identity_that_is_set_up_starts(world, dkim):
    """Who names no key and no selector is told with the start what nobody could look up."""
    to_a_relay(world, *dkim)
    ready = Zone(records={
        "b.acme.example": [("TXT", "v=spf1 mx -all"), ("MX", "10 mx.acme.example")],
        "mx.acme.example": [("A", "192.0.2.25")],
        "m1._domainkey.acme.example": [("TXT", "v=DKIM1; k=ed25519; p=key")],
        "s1._domainkey.acme.example": [("CNAME", "s1.relay.example")],
        "s1.relay.example": [("TXT", "k=rsa; p=whatever")],
        "_dmarc.acme.example": [("TXT", "v=DMARC1; p=none")], "mail.example.org": [("A", "192.0.2.1")],
    })  # fmt: skip
    with serving(ready) as port:
        world.resolver = resolver(port)
        (planned,) = world.start()
    assert planned.state == "running"
    noted = world.value("SELECT reason FROM campaign_transitions WHERE to_state = 'running'")
    assert noted == planned.reason and ("DKIM" in str(noted)) == (not dkim)


def test_while_dns_is_silent_a_campaign_waits_in_planning(world):
    to_a_relay(world, OURS)
    silent = Zone(trouble={"b.acme.example": ["always servfail"]})
    with serving(silent) as port:
        world.resolver = resolver(port)
        with pytest.raises(DnsSilent):
            world.start()
    assert world.state() == "planning"


def test_without_a_resolver_only_a_sandbox_is_sent_to(world):
    assert world.start()[0].state == "running"
    world.run("UPDATE campaigns SET state = 'draft', first_message_id = NULL")
    world.run("DELETE FROM messages")
    to_a_relay(world)
    (planned,) = world.start()
    assert planned.state == "failed" and "MAILMILL_RESOLVER" in str(planned.reason)
