"""DNS, asked where the mail of domains goes: bounded concurrency, time-outs, several servers, TCP where needed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.TXT

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.domains import Answer
from mailmill.pipelines.target.records import DnsSilent, Kind, Question

PORT = 53
SETTING = "MAILMILL_RESOLVER"
UDP_BYTES = 1232  # what fits into every path's packets (DNS flag day 2020); more comes by TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A recursive DNS server."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class _Silence:
    """No server gave an answer that counts, and why the last one did not."""

    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsResolver:
    """The port Resolver over recursive servers, each asked `rounds` times before a domain counts as unknown.

    One that is silent is asked after the others until it answers again: it costs time for some questions, not for all.
    """

    servers: tuple[Server, ...]
    timeout_s: float = 3.0  # of one query to one server, TCP included
    concurrency: int = 100  # domains at once
    rounds: int = 2
    _silent: Counter[Server] = field(default_factory=Counter, compare=False)  # questions since its last answer

    def lookup(self, domains: Sequence[str]) -> list[Answer]:
        return asyncio.run(self._lookup(domains))

    async def _lookup(self, domains: Sequence[str]) -> list[Answer]:
        """Some workers take one domain after the other: ten thousand waiting tasks would cost more than the queries."""
        found: list[Answer | None] = [None] * len(domains)
        waiting = iter(enumerate(domains))

        async def work() -> None:
            for at, domain in waiting:
                found[at] = await self._domain(domain)

        async with asyncio.TaskGroup() as group:
            for _ in islice(domains, self.concurrency):
                group.create_task(work())
        return [answer for answer in found if answer is not None]

    def records(self, questions: Sequence[Question]) -> dict[Question, list[str]]:
        """The port Records of preflight."""
        return asyncio.run(self._records(questions))

    async def _records(self, questions: Sequence[Question]) -> dict[Question, list[str]]:
        found = await asyncio.gather(*(self._texts(name, kind) for name, kind in questions))
        return dict(zip(questions, found, strict=True))

    async def _texts(self, name: str, kind: Kind) -> list[str]:
        try:
            asked = dns.name.from_text(name)
        except dns.exception.DNSException:
            return []
        said = await self._ask(asked, dns.rdatatype.from_text(kind))
        if isinstance(said, _Silence):
            raise DnsSilent(f"DNS does not say what {kind} {name} is: {said.problem}")
        return [_text(record) for record in said.records]

    async def _domain(self, domain: str) -> Answer:
        try:
            name = dns.name.from_text(domain)
        except dns.exception.DNSException:
            return Answer(domain=domain, state="not_found")
        said = await self._ask(name, dns.rdatatype.MX)
        if isinstance(said, _Silence):
            return Answer(domain=domain, state="unknown", problem=said.problem)
        if said.missing:
            return Answer(domain=domain, state="not_found", ttl_s=said.ttl_s)
        if said.records:
            return _mailed(domain, said)
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):  # RFC 5321 5.1: the host itself is its mail exchanger
            hosts = await self._ask(name, kind)
            if isinstance(hosts, _Silence):
                return Answer(domain=domain, state="unknown", problem=hosts.problem)
            if hosts.records:
                ttl_s = min(said.ttl_s, hosts.ttl_s)
                return Answer(domain=domain, state="implicit_mx", exchangers=(domain,), ttl_s=ttl_s)
        return Answer(domain=domain, state="no_mail", ttl_s=said.ttl_s)

    async def _ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> _Said | _Silence:
        """One question, to one server after the other until one of them answers it."""
        silence = _Silence("timeout")
        for server in sorted(self.servers, key=self._silent.__getitem__) * self.rounds:
            query = dns.message.make_query(name, kind, use_edns=0, payload=UDP_BYTES)
            try:
                async with asyncio.timeout(self.timeout_s):
                    response, _ = await dns.asyncquery.udp_with_fallback(
                        query, server.address, port=server.port, ignore_unexpected=True, ignore_errors=True
                    )
                del self._silent[server]
                if _refers(response, kind):
                    silence = _Silence("referral")
                elif response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    return _said(response)
                else:
                    silence = _Silence(dns.rcode.to_text(response.rcode()).lower())
            except TimeoutError:
                self._silent[server] += 1
                silence = _Silence("timeout")
            except (OSError, EOFError):
                self._silent[server] += 1
                silence = _Silence("unreachable")
            except dns.exception.DNSException:
                silence = _Silence("malformed")
        return silence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A server's answer. `missing`: there is no such name (NXDOMAIN)."""

    records: tuple[object, ...]
    ttl_s: int
    missing: bool


def _refers(response: dns.message.Message, kind: dns.rdatatype.RdataType) -> bool:
    """Whether a server only names who would know. One that looks up nothing says so of every domain, and none of them
    is without mail for that. Source: RFC 2308 2.2.1."""
    if response.rcode() != dns.rcode.NOERROR or any(found.rdtype == kind for found in response.answer):
        return False
    told = {found.rdtype for found in response.authority}
    return dns.rdatatype.NS in told and dns.rdatatype.SOA not in told


def _said(response: dns.message.Message) -> _Said:
    assert isinstance(response, dns.message.QueryMessage)
    chain = response.resolve_chaining()  # follows CNAME; the TTL is the least of the chain, or that of the absence
    return _Said(
        records=tuple(chain.answer or ()),
        ttl_s=min(chain.minimum_ttl, 2**31 - 1),
        missing=response.rcode() == dns.rcode.NXDOMAIN,
    )


def _mailed(domain: str, said: _Said) -> Answer:
    """The exchangers that mail could be handed to; names that can be no host of anybody else's are none."""
    records = [record for record in said.records if isinstance(record, dns.rdtypes.ANY.MX.MX)]
    if len(records) == 1 and records[0].exchange == dns.name.root:
        return Answer(domain=domain, state="null_mx", ttl_s=said.ttl_s)
    ordered = sorted((record.preference, record.exchange.to_text(omit_final_dot=True).lower()) for record in records)
    hosts = tuple(host for _, host in ordered if _is_host(host))
    return Answer(domain=domain, state="mx" if hosts else "no_mail", exchangers=hosts, ttl_s=said.ttl_s)


def _text(record: object) -> str:
    """A record as a person writes it: a TXT's strings joined (RFC 7208 3.3), an MX's host."""
    if isinstance(record, dns.rdtypes.ANY.TXT.TXT):
        return b"".join(record.strings).decode("utf-8", "replace")
    if isinstance(record, dns.rdtypes.ANY.MX.MX):
        return record.exchange.to_text(omit_final_dot=True).lower() or "."
    return str(record)


def _is_host(name: str) -> bool:
    top = name.rpartition(".")[2]
    return top not in ("", "localhost", "invalid", "test", "localdomain") and not top.isdigit()


def servers(setting: str) -> tuple[Server, ...]:
    """The servers of a setting `host:port,…`; without a port it is 53, IPv6 stands in brackets.

    Raises: Misconfigured when it cannot be read, or a host of it has no address.
    """
    return tuple(_server(item.strip()) for item in setting.split(",") if item.strip())


def _server(item: str) -> Server:
    bracketed = item.startswith("[")
    host, _, port = item[1:].partition("]") if bracketed else (item, "", "")
    if bracketed:
        port = port.removeprefix(":")
    elif item.count(":") == 1:
        host, _, port = item.partition(":")
    if not host or (port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)):
        raise Misconfigured(f"{item!r} is not host:port", place=SETTING, remedy="Write 127.0.0.1:53, or [::1]:53.")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            host = str(socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)[0][4][0])
        except (OSError, UnicodeError) as error:
            raise Misconfigured(f"the host {host!r} has no address", place=SETTING) from error
    return Server(address=host, port=int(port or PORT))
