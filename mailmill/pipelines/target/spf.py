"""Whether an SPF record lets somebody send in a domain's name, and not everybody.

Which of the addresses is the relay's is not known here: a relay behind an `include` may send from any of them.

Source: RFC 7208 (sections 4.5 the record, 4.6.4 look-ups, 5 mechanisms, 6.1 redirect).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from mailmill.pipelines.target.records import Records, addresses

MOST_LOOKUPS = 10  # further ones make a permanent error
MOST_VOID = 2  # of them that find nothing
MOST_HOSTS = 10  # that an `mx` finds
_RECORD = re.compile(r"v=spf1(?: .*)?", re.IGNORECASE | re.DOTALL)
_MECHANISM = re.compile(
    r"([-+~?]?)(?:(all)|(include|ip4|ip6|exists):(.+)|(a|mx|ptr)(?::([^/]\S*?))?(?:/(\d{1,2}))?(?://(\d{1,3}))?)",
    re.IGNORECASE,
)
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.IGNORECASE)
_LOOKS_UP = ("include", "a", "mx", "ptr", "exists")


@dataclass(slots=True)
class _Record:
    """What one record says."""

    some: bool = False  # somebody may send
    everybody: bool = False
    lookups: int = 0
    others: list[str] = field(default_factory=list)  # domains whose senders may send too
    hosts: list[tuple[str, str]] = field(default_factory=list)  # `a` or `mx`, and its name, whose addresses may send

    def of(self, domain: str) -> None:
        """Whoever may send for that domain. A name with a macro is each message's own, and can't be looked up here."""
        self.lookups += 1
        if "%" in domain:
            self.some = True
        else:
            self.others.append(domain)


class _Broken(Exception):
    """A record that no receiver evaluates (permerror), and why."""


def problem(domain: str, texts: Sequence[str], dns: Records) -> str | None:
    """What is wrong with a domain's SPF record, among its TXT records, or with those it includes; None: nothing.

    Raises: DnsSilent.
    """
    some, left, level, empty = False, MOST_LOOKUPS, [(domain, texts)], list[str]()
    try:
        while level:
            found = [_read(*one) for one in level]
            if any(one.everybody for one in found):
                return f"{domain} lets everybody send"
            some = some or any(one.some for one in found)
            left -= sum(one.lookups for one in found)
            if left < 0:
                return f"the SPF record of {domain} asks for more than {MOST_LOOKUPS} look-ups, so it counts as broken"
            hosts = [host for one in found for host in one.hosts]
            nobody = _without_address(hosts, dns)
            empty += nobody
            if len(empty) > MOST_VOID:
                return f"the SPF record of {domain} counts as broken, as nothing is found at {', '.join(empty)}"
            some = some or len(nobody) < len(hosts)
            names = [name for one in found for name in one.others]
            said = dns.records([(name, "TXT") for name in names])
            level = [(name, said[name, "TXT"]) for name in names]
    except _Broken as broken:
        return str(broken)
    if some:
        return None
    return f"{domain} lets nobody send" + (f": nothing is found at {', '.join(empty)}" if empty else "")


def _without_address(hosts: Sequence[tuple[str, str]], dns: Records) -> list[str]:
    """Those mechanisms that match no address. Unlike for mail, a host without MX is not its own. Raises: _Broken."""
    asked = list(dict.fromkeys(name for mechanism, name in hosts if mechanism == "mx"))
    said = dns.records([(name, "MX") for name in asked]) if asked else {}
    if any(len(said[name, "MX"]) > MOST_HOSTS for name in asked):
        raise _Broken(f"an SPF record has an mx with more than {MOST_HOSTS} hosts, so it counts as broken")
    meant = [(one, said[one[1], "MX"] if one[0] == "mx" else [one[1]]) for one in hosts]
    known = addresses(dns, (name for _, names in meant for name in names if name != "."))
    return [":".join(one) for one, names in meant if not any(known.get(name) for name in names)]


def records_of(texts: Sequence[str]) -> list[str]:
    """The SPF records among a domain's TXT records; several count as none."""
    return [text for text in texts if _RECORD.fullmatch(text)]


def _read(domain: str, texts: Sequence[str]) -> _Record:
    """Raises: _Broken."""
    records = records_of(texts)
    if len(records) != 1:
        words = "has several SPF records, which count as none" if records else "has no SPF record"
        raise _Broken(f"{domain} {words}")
    said, redirect = _Record(), ""
    for term in records[0].split()[1:]:
        if modifier := _MODIFIER.fullmatch(term):
            redirect = modifier[2] if modifier[1].lower() == "redirect" else redirect
            continue
        mechanism = _MECHANISM.fullmatch(term)
        if mechanism is None:
            raise _Broken(f"{domain} has an SPF record that cannot be read at {term!r}")
        passes, name = mechanism[1] in ("", "+"), (mechanism[2] or mechanism[3] or mechanism[5]).lower()
        if name == "all":  # what stands behind it is ignored, a redirect too
            said.everybody = said.everybody or passes
            return said
        if name == "include" and passes:
            said.of(mechanism[4])
            continue
        said.lookups += name in _LOOKS_UP
        at = mechanism[6] or domain
        if passes and name in ("a", "mx") and "%" not in at:
            said.hosts.append((name, at))
        else:
            said.some = said.some or passes
        wide = "0" in mechanism.group(7, 8) or _of_everybody(domain, name, mechanism[4])
        said.everybody = said.everybody or (passes and wide)
    if redirect:
        said.of(redirect)
    return said


def _of_everybody(domain: str, name: str, value: str) -> bool:
    """Raises: _Broken for an address that is none."""
    if name not in ("ip4", "ip6"):
        return False
    try:
        return (IPv4Network if name == "ip4" else IPv6Network)(value, strict=False).prefixlen == 0
    except ValueError:
        raise _Broken(f"{domain} has an SPF record that cannot be read at '{name}:{value}'") from None
