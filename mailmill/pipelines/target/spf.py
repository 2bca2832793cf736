"""Whether an SPF record lets somebody send in a domain's name, and not everybody.

Which of the addresses is the relay's is not known here: a relay behind an `include` may send from any of them.

Source: RFC 7208 (sections 4.6.4 look-ups, 5 mechanisms, 6.1 redirect).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from mailmill.pipelines.target.records import Records, of_version

MOST_LOOKUPS = 10  # further ones make a permanent error
_MECHANISM = re.compile(r"([-+~?]?)(?:(all)|(include|ip4|ip6|exists):(.+)|(a|mx|ptr)(?:[:/].+)?)", re.IGNORECASE)
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.IGNORECASE)
_LOOKS_UP = ("include", "a", "mx", "ptr", "exists")


@dataclass(slots=True)
class _Record:
    """What one record says."""

    some: bool = False  # somebody may send
    everybody: bool = False
    lookups: int = 0
    others: list[str] = field(default_factory=list)  # domains whose senders may send too

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
    some, left, level = False, MOST_LOOKUPS, [(domain, texts)]
    try:
        while level:
            found = [_read(*one) for one in level]
            if any(one.everybody for one in found):
                return f"{domain} lets everybody send"
            some = some or any(one.some for one in found)
            left -= sum(one.lookups for one in found)
            if left < 0:
                return f"the SPF record of {domain} asks for more than {MOST_LOOKUPS} look-ups, so it counts as broken"
            names = [name for one in found for name in one.others]
            said = dns.records([(name, "TXT") for name in names])
            level = [(name, said[name, "TXT"]) for name in names]
    except _Broken as broken:
        return str(broken)
    return None if some else f"{domain} lets nobody send"


def _read(domain: str, texts: Sequence[str]) -> _Record:
    """Raises: _Broken."""
    records = of_version(texts, "v=spf1")
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
        said.some = said.some or passes
        said.everybody = said.everybody or (passes and _of_everybody(domain, name, mechanism[4]))
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
