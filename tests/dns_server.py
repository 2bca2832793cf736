"""A real DNS server on loopback, by UDP and TCP on one port, that answers as its zone says and misbehaves on demand."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread

from dnslib import AAAA, CNAME, MX, NS, QTYPE, RCODE, RR, SOA, TXT, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer
from ports import free_port

SOA_MINIMUM = 900


@dataclass
class Zone(BaseResolver):
    """Names -> records as (type, value) with a TTL; whatever is in `trouble` answers so, as often as it is listed.

    trouble: 'servfail', 'refused', 'silent', 'truncate' (answers in full by TCP only), 'garbage', 'referral' (names who
    would know, as a server does that looks up nothing).
    """

    records: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    trouble: dict[str, list[str]] = field(default_factory=dict)
    ttl: int = 7200
    asked: Counter[str] = field(default_factory=Counter)  # 'MX x.org udp'

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        name, kind = str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype]
        self.asked[f"{kind} {name} {handler.protocol}"] += 1
        reply = request.reply()
        troubles = self.trouble.get(name, [])
        trouble = troubles[0] if troubles and troubles[0] in ("truncate", "always servfail", "always silent") else None
        if trouble is None and troubles:
            trouble = troubles.pop(0)
        if trouble == "truncate" and handler.protocol == "udp":
            reply.header.tc = 1
            return reply
        if trouble in ("servfail", "always servfail"):
            reply.header.rcode = RCODE.SERVFAIL
            return reply
        if trouble == "refused":
            reply.header.rcode = RCODE.REFUSED
            return reply
        if trouble == "referral":
            reply.add_auth(RR("org.", QTYPE.NS, rdata=NS("a0.nic.org."), ttl=self.ttl))
            return reply
        if trouble in ("silent", "always silent", "garbage"):
            raise _Unanswered(trouble)
        self._fill(reply, name, kind)
        return reply

    def _fill(self, reply: DNSRecord, name: str, kind: str) -> None:
        found = self.records.get(name)
        if found is None:
            reply.header.rcode = RCODE.NXDOMAIN
        for type_, value in found or ():
            if type_ == "CNAME":
                reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(value), ttl=self.ttl))
                self._fill(reply, value, kind)
            elif type_ == kind == "MX":
                preference, _, host = value.partition(" ")
                reply.add_answer(RR(name, QTYPE.MX, rdata=MX(host, int(preference)), ttl=self.ttl))
            elif type_ == kind:
                made = {"A": A, "AAAA": AAAA, "TXT": _txt}[kind](value)
                reply.add_answer(RR(name, QTYPE.reverse[kind], rdata=made, ttl=self.ttl))
        if not reply.rr and not reply.auth:
            times = (1, 3600, 600, 86400, SOA_MINIMUM)
            reply.add_auth(RR(".", QTYPE.SOA, rdata=SOA("ns.zone.", "root.zone.", times), ttl=SOA_MINIMUM))


def _txt(value: str) -> TXT:
    """In strings of at most 255 octets, as DNS has them."""
    return TXT([value[at : at + 255].encode() for at in range(0, len(value), 255)])


class _Unanswered(Exception):
    """The server says nothing that could be read."""


class _Handler(DNSHandler):
    def get_reply(self, data: bytes) -> bytes:
        try:
            return super().get_reply(data)
        except _Unanswered as what:
            if str(what) == "garbage":
                return data[:2] + b"\x84\x00 no answer"
            return b""

    def handle(self) -> None:
        if self.server.socket_type == socket.SOCK_STREAM:
            self.protocol = "tcp"
            try:
                super().handle()
            except OSError:
                return
        else:
            self.protocol = "udp"
            data, connection = self.request
            if reply := self.get_reply(data):
                connection.sendto(reply, self.client_address)


@contextmanager
def serving(zone: Zone) -> Iterator[int]:
    """The zone on a free port. Out: the port."""
    port = free_port()
    logger = DNSLogger(log="-recv,-send,-request,-reply,-truncated,-error,-data", logf=lambda _: None)
    servers = [
        DNSServer(zone, port=port, address="127.0.0.1", tcp=tcp, logger=logger, handler=_Handler)
        for tcp in (False, True)
    ]
    for server in servers:  # a short poll, so that stopping takes no half second
        Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield port
    finally:
        for server in servers:
            server.stop()
            server.server.server_close()
