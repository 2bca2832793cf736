"""What comes in over HTTP, as delivery events: (key, value) pairs ready for the event log."""

from __future__ import annotations

import orjson

from mailmill.pipelines.listen.events import Kind, event_id
from mailmill.pipelines.listen.visitors import cut_user_agent, is_machine, truncated_ip
from mailmill.pipelines.send.tokens import Token

Event = tuple[int, bytes]


def event(
    token: Token,
    kind: Kind,
    *,
    id: str,
    at_ms: int,
    link: int | None = None,
    user_agent: str | None = None,
    ip: str | None = None,
    code: int | None = None,
    reason: str | None = None,
    transport: int | None = None,
) -> Event:
    """One event as it lies on the log (events.py)."""
    fields = {
        "event_id": id, "tenant": token.tenant, "campaign": token.campaign, "message": token.message, "kind": kind,
        "at": at_ms, "link": link, "user_agent": user_agent, "ip": ip, "code": code, "reason": reason, "attempt": None,
        "transport": transport,
    }  # fmt: skip
    return token.message, orjson.dumps(fields)


def visit(token: Token, *, at_ms: int, user_agent: str | None, address: str | None) -> Event:
    """The pixel was fetched, or, when the token names a link, the link followed.

    One event a moment (a millisecond), network and program: who fetches twice is counted twice in the totals.
    """
    agent, ip = cut_user_agent(user_agent), truncated_ip(address)
    verb: Kind = "opened" if token.link is None else "clicked"
    machine: Kind = "machine_opened" if token.link is None else "machine_clicked"
    id = event_id("visit", verb, token.message, token.link or 0, at_ms, ip or "", agent or "")
    kind = machine if is_machine(agent) else verb
    return event(token, kind, id=id, at_ms=at_ms, link=token.link, user_agent=agent, ip=ip)


def unsubscription(token: Token, *, at_ms: int) -> Event:
    """The recipient wants no more mail. There is one for a message, however often it is asked for."""
    return event(token, "unsubscribed", id=event_id("unsubscribed", token.message), at_ms=at_ms)
