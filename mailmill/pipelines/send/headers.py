"""The headers of a message: what is the same in every message of a campaign, and which an operator may add.

Source: RFC 5322 section 3.6, RFC 2369 and RFC 8058 (unsubscribing), RFC 2919 (List-Id), mail.md M1-M11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from mailmill.pipelines.send import mime

# what we write ourselves, what relays and receivers write, and what would make another message of it
DENIED = frozenset({
    "from", "to", "cc", "bcc", "subject", "date", "message-id", "reply-to", "sender", "received", "return-path",
    "dkim-signature", "authentication-results", "received-spf", "mime-version", "list-id", "list-unsubscribe",
    "list-unsubscribe-post", "feedback-id", "x-mailmill-id", "precedence", "delivered-to", "domainkey-signature",
})  # fmt: skip
DENIED_PREFIXES = ("content-", "arc-", "resent-", "x-mailmill-")
MAX_CUSTOM = 20
# fields of addresses, ids and words that programs read: no encoded words stand in them (RFC 2369, RFC 2047 section 5)
_STRUCTURED = re.compile(r"list-.+|.+-to|references|auto-submitted|importance|(?:x-)?priority", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,59}")  # RFC 5322 allows more; nobody else does


def problem(name: str, value: str) -> str | None:
    """Why an operator's header cannot be added, None when it can."""
    if not _NAME.fullmatch(name):
        return f"{name!r} is no header's name: letters, digits and hyphens are allowed"
    if name.lower() in DENIED or name.lower().startswith(DENIED_PREFIXES):
        return f"{name} is not yours to set: mailmill, a relay or the receiver writes it"
    if mime.breaks_header(value):
        return f"{name} holds a line break or a control character"
    if not value.strip() or len(value) > mime.MAX_HEADER:
        return f"{name} is empty or longer than {mime.MAX_HEADER} characters"
    if _STRUCTURED.fullmatch(name) and not value.isascii():
        beyond = next(character for character in value if not character.isascii())
        return f"{name} holds {beyond!r}: programs read this field, and nothing beyond ASCII stands in it"
    return None


def fixed(content: Mapping[str, Any], *, tenant: int, campaign: int, boundary: str) -> bytes:
    """What is the same in every message of the campaign, MIME's included.

    Raises: ValueError for what cannot stand in a header.
    """
    list_id = str(content["list_id"])
    lines = [mime.mailbox("From", str(content["from_name"]), str(content["from_address"]))]
    if content.get("reply_to"):
        lines.append(mime.mailbox("Reply-To", "", str(content["reply_to"])))
    lines += [
        f"List-Id: {list_id if '<' in list_id else f'<{list_id}>'}\r\n".encode(),
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        f"Feedback-ID: {campaign}:{tenant}:bulk:mailmill\r\nPrecedence: bulk\r\n".encode(),
    ]
    for name, value in dict(content.get("headers") or {}).items():
        wrong = problem(name, value)
        if wrong:
            raise ValueError(wrong)
        programs = _STRUCTURED.fullmatch(name) is not None
        lines.append(mime.structured(name, value) if programs else mime.unstructured(name, value, mime.LONGEST))
    lines.append(f'MIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n boundary="{boundary}"\r\n'.encode())
    return b"".join(lines)


def leave_by_mail(content: Mapping[str, Any]) -> bytes:
    """What the mailto of List-Unsubscribe begins with, up to the token; empty when nobody reads such a mailbox.

    The token stands in the subject: any mailbox will do, and a program that sorts its mail finds it.
    """
    mailbox = content.get("unsubscribe_mailbox")
    if not mailbox:
        return b""
    return b"mailto:" + quote(mime.ascii_address(str(mailbox)), safe="@+").encode() + b"?subject=unsubscribe%20"
