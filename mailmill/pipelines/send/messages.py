"""A campaign's frozen content, compiled once, and one message of it for each recipient.

A part that only prints merge fields is encoded once and joined with the values; a part with conditions is rendered by
Jinja2 for each recipient. Either way the bytes are final: CRLF, quoted-printable, no line begins with a dot.

Source: RFC 5322, RFC 2046 section 5.1.4, RFC 8058 (one-click unsubscribe), RFC 2919 (List-Id).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailmill.errors import TerminalError
from mailmill.pipelines.send import mime
from mailmill.pipelines.send.parts import MISSING, Part, Subject, compile_part, compile_subject
from mailmill.pipelines.send.tokens import Key, TrackingSigner, return_path_token, unsubscribe_token

MAX_BYTES = 5_000_000  # of one message
# ASCII only: a local part beyond it needs SMTPUTF8, which few relays offer
_ADDRESS = re.compile(
    rb"""(?=.{3,254}\Z)(?:[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}|"(?:[ !#-\[\]-~]|\\[ -~]){0,62}")
    @(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?""",
    re.VERBOSE,
)


class Unrenderable(TerminalError):
    """This recipient cannot be sent to. `reason` is the ledger's code: render_error or unsupported_address."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message as it goes on the wire: header and body in CRLF lines, dots stuffed, the final dot not included."""

    return_path: bytes
    recipient: bytes
    content: bytes


class Composer:
    """Makes the messages of one campaign.

    In: content as planning froze it (campaigns.content), the keys that sign now.
    Raises: Misconfigured when the content cannot be compiled at all.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        *,
        tenant: int,
        campaign: int,
        tracking: Key,
        unsubscribe: Key,
        return_path: Key,
    ) -> None:
        self._ids = tenant, campaign
        self._signer, self._unsubscribe, self._return_path = TrackingSigner(tracking), unsubscribe, return_path
        self.fields: tuple[str, ...] = tuple(content["merge_fields"])
        self._links = len(content["links"])
        self._domain = str(content["return_path_domain"])
        self._base = str(content["public_url"]).rstrip("/")
        self._subject: Subject = compile_subject(content)
        self._text: Part = compile_part("text", content)
        self._html: Part = compile_part("html", content)
        self._fixed = _fixed_headers(content, tenant=tenant, campaign=campaign)
        boundary = "=_mailmill_" + hashlib.sha256(repr(self._fixed).encode()).hexdigest()[:16]
        self._open, self._between, self._close = _multipart(boundary)

    def compose(self, message: int, address: bytes, values: Sequence[bytes], date: bytes) -> Outgoing:
        """The message of one recipient.

        In:     values in the order of `fields`, UTF-8, MISSING where there is none; date as mime.date gives it.
        Raises: Unrenderable.
        """
        if len(values) != len(self.fields):
            raise Unrenderable("render_error", f"{len(values)} merge values for {len(self.fields)} fields")
        if not _ADDRESS.fullmatch(address):
            raise Unrenderable("unsupported_address", "no address that SMTP can carry without SMTPUTF8")
        tenant, campaign = self._ids
        back = return_path_token(self._return_path, tenant, campaign, message)
        leave = unsubscribe_token(self._unsubscribe, tenant, campaign, message)
        signed = self._signer.encoded(tenant, campaign, message, self._links)
        tokens = (leave.encode(), *[signed[at : at + 40] for at in range(0, len(signed), 40)])
        sender = f"b+{back}@{self._domain}"
        try:
            content = b"".join([
                self._fixed, b"To: ", address, b"\r\n", self._subject.line(values),
                b"Date: ", date, b"\r\n", self._own_headers(back, leave),
                self._open, self._text.body(values, tokens),
                self._between, self._html.body(values, tokens), self._close,
            ])  # fmt: skip
        except Unrenderable:
            raise
        except Exception as error:  # Jinja2 and its filters raise what they like; it is this recipient's values
            raise Unrenderable("render_error", f"{type(error).__name__}: {error}"[:200]) from None
        if len(content) > MAX_BYTES:
            raise Unrenderable("render_error", f"the message has {len(content):,} bytes")
        return Outgoing(sender.encode(), address, content)

    def _own_headers(self, back: str, leave: str) -> bytes:
        return (
            f"Message-ID: <{back}@{self._domain}>\r\n"
            # no mailto beside it (RFC 8058 does not ask for one) until something reads that mailbox
            f"List-Unsubscribe: <{self._base}/u/{leave}>\r\n"
            f"X-Mailmill-Id: {back}\r\n"
        ).encode()


def _fixed_headers(content: Mapping[str, Any], *, tenant: int, campaign: int) -> bytes:
    """What is the same in every message of the campaign."""
    lines = [mime.mailbox("From", content["from_name"], content["from_address"])]
    if content.get("reply_to"):
        lines.append(mime.mailbox("Reply-To", "", content["reply_to"]))
    list_id = str(content["list_id"])
    lines.append(f"List-Id: {list_id if '<' in list_id else f'<{list_id}>'}\r\n".encode())
    lines.append(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n")
    lines.append(f"Feedback-ID: {campaign}:{tenant}:bulk:mailmill\r\nPrecedence: bulk\r\n".encode())
    return b"".join(lines)


def _multipart(boundary: str) -> tuple[bytes, bytes, bytes]:
    """Around text and HTML. Quoted-printable never holds `=_`, so the boundary cannot occur in a part."""
    part = (
        f"--{boundary}\r\nContent-Type: text/%s; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    head = f'MIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n boundary="{boundary}"\r\n\r\n'
    return (
        (head + part % "plain").encode(),
        ("\r\n" + part % "html").encode(),
        f"\r\n--{boundary}--\r\n".encode(),
    )


__all__ = ["MISSING", "Composer", "Outgoing", "Unrenderable"]
