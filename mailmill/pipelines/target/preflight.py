"""Preflight: whether DNS says of an identity what mailbox providers ask for before they take bulk mail.

Looked up are SPF and MX of the return path, the DKIM keys, DMARC of the From domain, and the tracking host. A failing
check names the record to publish.

Source: RFC 7208 (SPF), RFC 6376 (DKIM), RFC 7489 (DMARC), RFC 5321 5.1 (a host without MX is its own), RFC 7505 (null
MX); Gmail's and Yahoo's sender requirements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from mailmill.pipelines.target import dkim_keys, spf
from mailmill.pipelines.target.records import ADDRESSES, Question, Records, addresses, reachable

Level = Literal["ok", "warning", "failed"]
MOST_LABELS = 8  # of a From domain that are looked at for a DMARC record
_POLICY = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;.*)?", re.DOTALL)  # its case counts (RFC 7489 6.4)


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
    policies = [(name, said[name, "TXT"]) for name in _policy_names(sender.from_domain)]
    return [
        _return_path(sender, said[sender.return_path_domain, "MX"], dns),
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
    return list(dict.fromkeys([*asked, *((_tracking_host(sender), kind) for kind in ADDRESSES)]))


def _policy_names(domain: str) -> list[str]:
    """Where a DMARC policy for this domain may stand: at the domain itself, else further up."""
    labels = domain.split(".")[-MOST_LABELS:]
    return [f"_dmarc.{'.'.join(labels[at:])}" for at in range(max(1, len(labels) - 1))]


def _return_path(sender: Sender, exchangers: Sequence[str], dns: Records) -> Finding:
    domain = sender.return_path_domain
    if not aligned(domain, sender.from_domain):
        return Finding(
            check="return path",
            level="failed",
            found=f"{domain} does not belong to the domain of the From address, {sender.from_domain}",
        )
    hosts = [] if "." in exchangers else exchangers or [domain]
    found = addresses(dns, hosts)
    takers = [host for host in hosts if any(reachable(address) for address in found[host])]
    if takers:
        return Finding(check="return path", level="ok", found=f"bounces to {domain} go to {', '.join(takers)}")
    why = f", as {', '.join(hosts)} has no address that others reach" if hosts else ""
    return Finding(
        check="return path",
        level="failed",
        found=f"{domain} takes no mail{why}, so no bounce would arrive",
        publish=f"{domain}. MX 10 <a host with an address, which takes bounces>.",
    )


def _spf(sender: Sender, texts: Sequence[str], dns: Records) -> Finding:
    wrong = spf.problem(sender.return_path_domain, texts, dns)
    if wrong is None:
        return Finding(check="SPF", level="ok", found=spf.records_of(texts)[0])
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
    wrong, publish = dkim_keys.fault(texts, wanted.text), _to_publish(wanted)
    if wrong is not None:
        return Finding(check="DKIM", level="failed", found=f"{wanted.name} {wrong}", publish=publish)
    if dkim_keys.testing(texts):
        words = f"{wanted.name} says t=y, for testing: receivers treat the mail as if nobody had signed it"
        return Finding(check="DKIM", level="warning", found=words, publish=publish)
    whose = "our key" if wanted.text is not None else "a key, with which the relay signs"
    return Finding(check="DKIM", level="ok", found=f"{wanted.name} has {whose}")


def _to_publish(wanted: DkimRecord) -> str:
    if wanted.text is None:
        return f"{wanted.name}. <the TXT or CNAME record that the relay's operator gives>"
    return f'{wanted.name}. TXT "{wanted.text}"'


def _tag(record: str, name: str) -> str | None:
    """The value of a policy's tag, white space left out; what cannot be read is passed over (RFC 7489 6.3)."""
    for part in record.split(";"):
        tag, equals, value = part.partition("=")
        if equals and tag.strip().lower() == name:
            return re.sub(r"\s", "", value)
    return None


def _dmarc(sender: Sender, policies: Sequence[tuple[str, Sequence[str]]]) -> Finding:
    publish = f'_dmarc.{sender.from_domain}. TXT "v=DMARC1; p=none; rua=mailto:dmarc@{sender.from_domain}"'
    found = f"neither {sender.from_domain} nor a domain above it has a policy"
    for name, texts in policies:
        records = [text for text in texts if _POLICY.fullmatch(text)]
        if texts and not records:
            found += f" ({name} has {texts[0]!r}, which does not begin with v=DMARC1;)"
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


def _tracking_host(sender: Sender) -> str:
    return urlsplit(sender.public_url).hostname or ""


def _tracking(sender: Sender, said: Mapping[Question, Sequence[str]]) -> Finding:
    host = _tracking_host(sender)
    if host in ("localhost", "127.0.0.1", "::1"):
        words = f"{host} is this machine: nobody else can follow a link or unsubscribe"
        return Finding(check="tracking host", level="warning", found=words)
    found = [address for kind in ADDRESSES for address in said[host, kind]]
    if found and all(map(reachable, found)):
        return Finding(check="tracking host", level="ok", found=f"{host} is {', '.join(found)}")
    lacks = f"is {', '.join(found)}, which others do not reach" if found else "has no address"
    return Finding(
        check="tracking host",
        level="failed",
        found=f"{host}, which links and unsubscribing lead to, {lacks}",
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
