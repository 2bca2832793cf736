"""The generic webhook: its signature, its form, and the delivery events it gives.

Body: a JSON list of events, each
    {"id": "provider's own, optional", "message": "our Message-ID or return path", "type": "delivered",
     "at": "2026-11-20T10:00:00Z", "code": 550, "enhanced": "5.1.1", "reply": "…", "link": "https://…" or ordinal}
Header: `X-Mailmill-Signature: t=<epoch seconds>,v1=<hex HMAC-SHA256 of "t.body" with the transport's secret>`.

`message` holds a token of ours, so whom an event is about is proved by the token, not claimed by the body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast, get_args

import orjson

from mailmill.errors import InvalidEvent
from mailmill.pipelines.listen import arrivals
from mailmill.pipelines.listen.arrivals import Event
from mailmill.pipelines.listen.bounces import classify
from mailmill.pipelines.listen.events import Kind, event_id
from mailmill.pipelines.send.tokens import Token, verify

Type = Literal[
    "delivered", "bounced", "complained", "deferred", "opened", "clicked", "unsubscribed", "replied"
]  # fmt: skip
TYPES: tuple[Type, ...] = get_args(Type)
TOLERANCE_S = 300
MAX_BODY_BYTES = 1_000_000
EARLIEST_MS = 946_684_800_000  # 2000-01-01: what is earlier was meant as seconds
_SIGNATURE = re.compile(r"t=(\d{1,12}),v1=([0-9a-f]{64})", re.ASCII)
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)
_FIELDS = frozenset(("id", "message", "type", "at", "code", "enhanced", "reply", "link"))


class MalformedReport(InvalidEvent):
    """The body is not what a webhook sends; nothing of it is taken. `index` and `field` say where."""

    def __init__(self, message: str, *, index: int | None = None, field: str | None = None) -> None:
        self.index, self.field = index, field
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One event as the provider tells it."""

    id: str | None
    message: str
    type: Type
    at_ms: int
    code: int | None
    enhanced: str | None
    reply: str
    link: int | str | None


def signature(secret: str, body: bytes, at: int) -> str:
    """The header's value for a body sent at `at` (epoch seconds)."""
    tag = hmac.digest(secret.encode(), b"%d." % at + body, hashlib.sha256).hex()
    return f"t={at},v1={tag}"


def verified(header: str | None, secret: str, body: bytes, *, now_s: float) -> bool:
    """Whether the raw bytes were signed with the secret within the last five minutes; in constant time."""
    found = _SIGNATURE.fullmatch(header or "")
    at = int(found.group(1)) if found else 0
    genuine = hmac.compare_digest(signature(secret, body, at), header or "") if (header or "").isascii() else False
    return found is not None and genuine and abs(now_s - at) <= TOLERANCE_S


def parse(body: bytes) -> list[Report]:
    """The events of a body.

    Raises: MalformedReport naming the first event and field that is wrong.
    """
    try:
        events = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedReport("the body is not JSON") from None
    if not isinstance(events, list):
        raise MalformedReport("the body has to be a list of events")
    return [_report(index, fields) for index, fields in enumerate(events)]


def _report(index: int, fields: Any) -> Report:
    def wrong(field: str | None, message: str) -> MalformedReport:
        return MalformedReport(message, index=index, field=field)

    def text(field: str, limit: int) -> str | None:
        value = fields.get(field)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= limit):
            raise wrong(field, f"has to be a text of 1 to {limit} characters")
        return value

    if not isinstance(fields, dict):
        raise wrong(None, "an event has to be an object")
    if unknown := fields.keys() - _FIELDS:
        raise wrong(min(unknown)[:64], f"is not known; an event has {', '.join(sorted(_FIELDS))}")
    message = text("message", 998)
    if message is None:
        raise wrong("message", "is missing: our Message-ID or return path")
    if fields.get("type") not in TYPES:
        raise wrong("type", f"has to be one of {', '.join(TYPES)}")
    code, link, enhanced = fields.get("code"), fields.get("link"), text("enhanced", 12)
    if code is not None and not (type(code) is int and 200 <= code <= 599):
        raise wrong("code", "has to be an SMTP reply code, 200 to 599")
    if enhanced is not None and not _ENHANCED.fullmatch(enhanced):
        raise wrong("enhanced", "has to be an enhanced status code such as 5.1.1")
    if type(link) is int and not 0 <= link < 2**15:
        raise wrong("link", "as a number it is the ordinal of the link in the message, from 0")
    if not isinstance(link, int | None) or isinstance(link, bool):
        link = text("link", 4000)
    return Report(
        id=text("id", 500), message=message, type=cast("Type", fields["type"]), at_ms=_at(fields.get("at"), wrong),
        code=code, enhanced=enhanced, reply=text("reply", 10_000) or "", link=link,
    )  # fmt: skip


def _at(value: Any, wrong: Callable[[str, str], MalformedReport]) -> int:
    """Epoch milliseconds of an ISO time with its offset, or of a number that is that already."""
    at = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise wrong("at", "has to be a time with its offset, such as 2026-11-20T10:00:00Z")
        at = int(moment.timestamp() * 1000)
    if type(at) is not int:
        raise wrong("at", "has to be a time: ISO 8601 with its offset, or epoch milliseconds")
    if at < EARLIEST_MS:
        raise wrong("at", "lies before the year 2000; a number has to be in milliseconds")
    return at


def token_of(message: str, keys: Mapping[int, bytes]) -> Token | None:
    """Whom a Message-ID (`<token@domain>`) or return path (`b+token@domain`) names; None when it is none of ours."""
    local = message.strip().removeprefix("<").partition("@")[0]
    return verify(local.removeprefix("b+").removeprefix("B+"), keys, "return_path")


def events(
    reports: Sequence[tuple[Report, Token]], *, transport: int, now_ms: int, links: Mapping[int, Sequence[str]]
) -> list[Event]:
    """The delivery events of reports whose tokens are genuine and of the webhook's own tenant.

    In: links are the URLs of each campaign in order, for reports that name a link by its URL.
    """
    return [_event(report, token, transport, now_ms, links) for report, token in reports]


def _event(report: Report, token: Token, transport: int, now_ms: int, links: Mapping[int, Sequence[str]]) -> Event:
    kind: Kind
    reason: str | None = None
    if report.type in ("bounced", "deferred"):
        found = classify(report.code, report.enhanced, report.reply)
        reason = found.name
        kind = "deferred" if report.type == "deferred" else "bounced_hard" if found.kind == "hard" else "bounced_soft"
    else:
        kind = cast("Kind", report.type)
    # the provider's id, else everything it says: sent a hundred times it stays one event
    what = (report.id,) if report.id else (report.at_ms, report.code or 0, report.enhanced or "", report.reply)
    id = event_id("webhook", transport, token.message, report.type, str(report.link), *what)
    return arrivals.event(
        token, kind, id=id, at_ms=min(report.at_ms, now_ms), link=_ordinal(report, links.get(token.campaign, ())),
        code=report.code, reason=reason, transport=transport,
    )  # fmt: skip


def _ordinal(report: Report, urls: Sequence[str]) -> int | None:
    if report.type != "clicked" or not isinstance(report.link, str):
        return report.link if report.type == "clicked" and isinstance(report.link, int) else None
    return urls.index(report.link) if report.link in urls else None
