"""What a recipient's mail program finds in a message: pictures, links, the unsubscribe button."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from html import unescape
from urllib.parse import urlsplit, urlunsplit

_MESSAGE_ID = re.compile(rb"^message-id:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_MAILMILL_ID = re.compile(rb"^x-mailmill-id:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_PICTURE = re.compile(r"""<img\b[^>]*?\bsrc\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_LINK = re.compile(r"""<a\b[^>]*?\bhref\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_URI = re.compile(r"<(https?://[^>\s]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """URLs that belong to the sender's ingress, that is to the origin of the unsubscribe URL; others are left alone."""

    unsubscribe: str | None
    pictures: tuple[str, ...]
    links: tuple[str, ...]


def names(content: bytes) -> tuple[str, str]:
    """Message-ID and X-Mailmill-Id; empty where they are missing."""
    head = content.partition(b"\r\n\r\n")[0]
    found = (_MESSAGE_ID.search(head), _MAILMILL_ID.search(head))
    first, second = (one.group(1).decode("ascii", "replace") if one else "" for one in found)
    return first, second


def read(content: bytes) -> Letter:
    """What the HTML part and the List-Unsubscribe header hold."""
    message = message_from_bytes(content)
    uris = _URI.findall("".join(str(message.get("List-Unsubscribe", "")).split()))
    unsubscribe = uris[0] if uris else None
    origin = _origin(unsubscribe) if unsubscribe else None
    html = _html(message)
    pictures = [unescape(url) for url in _PICTURE.findall(html)]
    links = [unescape(url) for url in _LINK.findall(html)]
    return Letter(
        unsubscribe=unsubscribe,
        pictures=tuple(url for url in pictures if _origin(url) == origin),
        links=tuple(url for url in links if _origin(url) == origin and url != unsubscribe),
    )


def _html(message: Message) -> str:
    for part in message.walk():
        if part.get_content_type() == "text/html":
            payload = part.get_payload(decode=True)
            return (
                payload.decode(part.get_content_charset() or "utf-8", "replace") if isinstance(payload, bytes) else ""
            )
    return ""


def _origin(url: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return (parts.scheme.lower(), parts.netloc.lower()) if parts.netloc else None


def moved(url: str, ingress: str | None) -> str | None:
    """The URL as the sandbox may fetch it: at the ingress it was given, else as it stands if that is on loopback."""
    parts = urlsplit(url)
    if ingress is not None:
        base = urlsplit(ingress)
        return urlunsplit((base.scheme, base.netloc, base.path.rstrip("/") + parts.path, parts.query, ""))
    return url if parts.hostname in ("127.0.0.1", "::1", "localhost") else None
