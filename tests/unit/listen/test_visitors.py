"""Machines by user agent (a heuristic), networks instead of addresses."""

from __future__ import annotations

import json

import pytest

from mailmill.pipelines.listen.arrivals import visit
from mailmill.pipelines.listen.visitors import cut_user_agent, is_machine, truncated_ip
from mailmill.pipelines.send.tokens import Token

PEOPLE = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 Safari/537.36",
    "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; Microsoft Outlook 16.0.1)",
    "Mozilla/5.0 (Linux; Android 14) Cubot KingKong",  # a telephone
]
MACHINES = [
    None, "", "  ", "Mozilla/5.0", "Mozilla/5.0 ",
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
    "Barracuda Sentinel (EE)", "Mozilla/5.0 (compatible; Googlebot/2.1)", "curl/8.5.0", "python-requests/2.32",
    "Go-http-client/2.0", "Mozilla/5.0 (X11) HeadlessChrome/120.0", "Slackbot-LinkExpanding 1.0",
]  # fmt: skip


@pytest.mark.parametrize("agent", PEOPLE)
def test_F48_a_mail_program_or_browser_counts_as_a_person(agent: str) -> None:
    assert not is_machine(agent)


@pytest.mark.parametrize("agent", MACHINES)
def test_F48_a_proxy_or_scanner_that_names_itself_is_a_machine(agent: str | None) -> None:
    assert is_machine(agent)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1234:5678::9", "2001:db8:1234::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("fe80::1%eth0", "fe80::"),
        ("testclient", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_is_cut_to_its_network(address: str | None, network: str | None) -> None:
    assert truncated_ip(address) == network


def test_a_user_agent_is_cut_and_controls_nothing() -> None:
    assert cut_user_agent("a\r\nb" + "x" * 500) == "a  b" + "x" * 196


def test_two_visits_are_two_events_and_one_visit_is_one() -> None:
    def id_of(**changed: object) -> str:
        values = {"at_ms": 5, "user_agent": PEOPLE[0], "address": "203.0.113.77", **changed}
        return str(json.loads(visit(Token(1, 1, 7), **values)[1])["event_id"])  # type: ignore[arg-type]

    assert id_of() == id_of()
    assert len({id_of(), id_of(at_ms=6), id_of(user_agent=PEOPLE[1]), id_of(address="203.0.114.1")}) == 4
