"""DNS records as text: what is asked, who answers, and what of an answer is of use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Literal, Protocol

from mailmill.errors import TransientError

Kind = Literal["TXT", "MX", "A", "AAAA"]
Question = tuple[str, Kind]
ADDRESSES: tuple[Kind, Kind] = ("A", "AAAA")


class DnsSilent(TransientError):
    """No server answered a question; that says nothing about the identity."""


class Records(Protocol):
    """Where DNS is asked."""

    def records(self, questions: Sequence[Question]) -> Mapping[Question, Sequence[str]]:
        """Every question's records as text (an MX as its host, '.' for none); empty where there are none.

        Raises: DnsSilent.
        """
        ...


def addresses(dns: Records, hosts: Iterable[str]) -> dict[str, list[str]]:
    """The addresses of each host, IPv4 first. Raises: DnsSilent."""
    names = list(dict.fromkeys(hosts))
    said = dns.records([(name, kind) for name in names for kind in ADDRESSES]) if names else {}
    return {name: [address for kind in ADDRESSES for address in said[name, kind]] for name in names}


def reachable(address: str) -> bool:
    """Whether another machine can mean the same host by it: not loopback, `this host` or of one link only."""
    found = ip_address(address)
    return not (found.is_loopback or found.is_unspecified or found.is_link_local)
