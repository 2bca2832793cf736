"""Preflight: whether DNS says of an identity what mailbox providers ask for before they take bulk mail.

Looked up are SPF and MX of the return path, the DKIM keys, DMARC of the From domain, and the tracking host. A failing
check names the record to publish.

Source: RFC 7208 (SPF), RFC 6376 (DKIM), RFC 7489 (DMARC), RFC 7505 (null MX); Gmail's and Yahoo's sender requirements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from mailmill.pipelines.target import spf
from mailmill.pipelines.target.records import Question, Records, of_version

Level = Literal["ok", "warning", "failed"]
MOST_LABELS = 8  # of a From domain that are looked at for a DMARC record


@dataclass(frozen=True, slots=True, kw_only=True)
class DkimRecord:
    """What a key of the identity wants to find in DNS."""

    name: str  # selector._domainkey.domain
    domain: str
    text: str | None  # v=DKIM1; k=…; p=…; None: the relay has the key, and any will do


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What of an identity DNS has to know."""

    from_domain: str
    return_path_domain: str
    dkim: tuple[DkimRecord, ...]
    public_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check. `publish`: the record that mends it, where one does."""

    check: str
    level: Level
    found: str
    publish: str = ""


def check(sender: Sender, dns: Records) -> list[Finding]:
    """Every check, in the order in which one sets a domain up. Raises: DnsSilent."""
    questions = _questions(sender)
    said = dns.records(questions)
    policies = [(name, of_version(said[name, "TXT"], "v=DMARC1")) for name in _policy_names(sender.from_domain)]
    return [
        _return_path(sender, said),
        _spf(sender, said[sender.return_path_domain, "TXT"], dns),
        *_dkim(sender, said),
        _dmarc(sender, policies),
        _tracking(sender, said),
    ]


def failures(findings: Sequence[Finding]) -> str:
    """What is wrong and what to publish, in one text; empty when nothing is."""
    return told(findings, "failed")


def told(findings: Sequence[Finding], level: Level) -> str:
    """Those of a level in one text."""
    bad = [one for one in findings if one.level == level]
    return "; ".join(f"{one.check}: {one.found}" + (f" (publish: {one.publish})" if one.publish else "") for one in bad)


def _questions(sender: Sender) -> list[Question]:
    asked: list[Question] = [(sender.return_path_domain, "TXT"), (sender.return_path_domain, "MX")]
    asked += [(one.name, "TXT") for one in sender.dkim]
    asked += [(name, "TXT") for name in _policy_names(sender.from_domain)]
    host = urlsplit(sender.public_url).hostname or ""
    return list(dict.fromkeys([*asked, (host, "A"), (host, "AAAA")]))


def _policy_names(domain: str) -> list[str]:
    """Where a DMARC policy for this domain may stand: at the domain itself, else further up."""
    labels = domain.split(".")[-MOST_LABELS:]
    return [f"_dmarc.{'.'.join(labels[at:])}" for at in range(max(1, len(labels) - 1))]


def _return_path(sender: Sender, said: Mapping[Question, Sequence[str]]) -> Finding:
    domain, hosts = sender.return_path_domain, said[sender.return_path_domain, "MX"]
    if not aligned(domain, sender.from_domain):
        return Finding(
            check="return path",
            level="failed",
            found=f"{domain} does not belong to the domain of the From address, {sender.from_domain}",
        )
    if hosts and "." not in hosts:
        return Finding(check="return path", level="ok", found=f"bounces to {domain} go to {', '.join(hosts)}")
    return Finding(
        check="return path",
        level="failed",
        found=f"{domain} takes no mail, so no bounce would arrive",
        publish=f"{domain}. MX 10 <the host that takes bounces>.",
    )


def _spf(sender: Sender, texts: Sequence[str], dns: Records) -> Finding:
    wrong = spf.problem(sender.return_path_domain, texts, dns)
    if wrong is None:
        return Finding(check="SPF", level="ok", found=of_version(texts, "v=spf1")[0])
    publish = f'{sender.return_path_domain}. TXT "v=spf1 <ip4:… or include:… of the relay> -all"'
    return Finding(check="SPF", level="failed", found=wrong, publish=publish)


def _dkim(sender: Sender, said: Mapping[Question, Sequence[str]]) -> list[Finding]:
    if not sender.dkim:
        words = (
            f"the identity has no key, and names no selector of the relay's: if the relay does not sign for"
            f" {sender.from_domain}, providers refuse the mail"
        )
        return [Finding(check="DKIM", level="warning", found=words)]
    return [_key(one, sender.from_domain, said[one.name, "TXT"]) for one in sender.dkim]


def _key(wanted: DkimRecord, from_domain: str, texts: Sequence[str]) -> Finding:
    if not aligned(wanted.domain, from_domain):
        return Finding(check="DKIM", level="failed", found=f"{wanted.domain} is not aligned with {from_domain}")
    published = [_tag(text, "p") for text in texts if _tag(text, "p") is not None]
    if wanted.text is None:
        return _relays_key(wanted, any(published))
    if _tag(wanted.text, "p") in published:
        return Finding(check="DKIM", level="ok", found=f"{wanted.name} has our key")
    found = f"{wanted.name} has another key" if published else f"{wanted.name} has no key"
    return Finding(check="DKIM", level="failed", found=found, publish=f'{wanted.name}. TXT "{wanted.text}"')


def _relays_key(wanted: DkimRecord, published: bool) -> Finding:
    """RFC 6376 3.6.1: an empty p= says that the key was revoked."""
    if published:
        return Finding(check="DKIM", level="ok", found=f"{wanted.name} has a key, with which the relay signs")
    publish = f"{wanted.name}. <the TXT or CNAME record that the relay's operator gives>"
    return Finding(check="DKIM", level="failed", found=f"{wanted.name} has no key of the relay's", publish=publish)


def _tag(record: str, name: str) -> str | None:
    """The value of a tag=value list's tag (RFC 6376 3.2), white space left out."""
    for part in record.split(";"):
        tag, equals, value = part.partition("=")
        if equals and tag.strip().lower() == name:
            return re.sub(r"\s", "", value)
    return None


def _dmarc(sender: Sender, policies: Sequence[tuple[str, Sequence[str]]]) -> Finding:
    publish = f'_dmarc.{sender.from_domain}. TXT "v=DMARC1; p=none; rua=mailto:dmarc@{sender.from_domain}"'
    found = f"neither {sender.from_domain} nor a domain above it has a policy"
    for name, records in policies:
        if len(records) > 1:  # nobody looks further up then (RFC 7489 6.6.3)
            found = f"{name} has several policies, which count as none"
            break
        if records and (_tag(records[0], "p") or "").lower() in ("none", "quarantine", "reject"):
            if _passes(sender, records[0]):
                return Finding(check="DMARC", level="ok", found=f"{name}: {records[0]}")
            found = f"{name} asks for strict alignment, but no DKIM domain and no return path is {sender.from_domain}"
            publish = f'{name}. TXT "{records[0]}" without adkim=s, or sign as {sender.from_domain}'
            break
    return Finding(check="DMARC", level="failed", found=found, publish=publish)


def _passes(sender: Sender, policy: str) -> bool:
    """Whether a signature or the return path is as close to the From domain as the policy asks (RFC 7489 3.1).

    Of an identity that names neither a key nor a relay's selector only the return path is known.
    """
    ways = [("adkim", one.domain) for one in sender.dkim] + [("aspf", sender.return_path_domain)]
    return any((_tag(policy, tag) or "r").lower() != "s" or domain == sender.from_domain for tag, domain in ways)


def _tracking(sender: Sender, said: Mapping[Question, Sequence[str]]) -> Finding:
    host = urlsplit(sender.public_url).hostname or ""
    addresses = [*said[host, "A"], *said[host, "AAAA"]]
    if addresses:
        return Finding(check="tracking host", level="ok", found=f"{host} is {', '.join(addresses)}")
    return Finding(
        check="tracking host",
        level="failed",
        found=f"{host}, which links and unsubscribing lead to, has no address",
        publish=f"{host}. A <the address of the ingress's proxy>",
    )


def aligned(domain: str, with_domain: str) -> bool:
    """Whether one is the other, or below it, or both lie below one registered domain (relaxed alignment).

    Without a list of public suffixes, a shared parent counts when it has two labels, the last of which is no country's
    second level such as co.uk.
    """
    one, other = domain.lower().split("."), with_domain.lower().split(".")
    common = 0
    while common < min(len(one), len(other)) and one[-1 - common] == other[-1 - common]:
        common += 1
    if common in (len(one), len(other)):
        return common >= 2
    second_level = len(one[-1]) == 2 and one[-2] in {"ac", "co", "com", "edu", "gov", "gv", "net", "ne", "or", "org"}
    return common >= (3 if second_level else 2)
