"""One message's SMTP envelope, and what a relay's EHLO offered for it.

Source: RFC 1870 (SIZE), RFC 6531 (SMTPUTF8), RFC 3461 (DSN).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DATA = b"DATA\r\n"
_NOT_XCHAR = re.compile(rb"[^!-~]|[+=]")


@dataclass(slots=True, eq=False)
class Envelope:
    """One message on its way: who gets the bounce, who gets the message, and whatever the driver knows it by."""

    return_path: bytes
    recipient: bytes
    tag: object
    size: int = 0  # octets of the content; 0: not known
    utf8: bool = False  # an address or a header is beyond ASCII
    begun: float = 0.0


@dataclass(frozen=True, slots=True)
class Offers:
    """What a relay's EHLO offered, as far as it is used. The content is 7-bit, so 8BITMIME is never needed."""

    pipelining: bool = False
    size: bool = False
    most_bytes: int = 0  # 0: not said
    smtputf8: bool = False
    dsn: bool = False

    def unfit(self, envelope: Envelope) -> tuple[str, str] | None:
        """Why this relay cannot take a message, as the ledger's reason and in words."""
        if envelope.utf8 and not self.smtputf8:
            return "unsupported_address", "the relay does not offer SMTPUTF8, which this address needs"
        if self.most_bytes and envelope.size > self.most_bytes:
            return "message_too_big", f"the message has {envelope.size:,} bytes, the relay takes {self.most_bytes:,}"
        return None

    def commands(self, envelope: Envelope) -> tuple[bytes, bytes, bytes]:
        """MAIL, RCPT and DATA. Source: RFC 1870 (SIZE), RFC 6531 (SMTPUTF8), RFC 3461 (DSN)."""
        options = b""
        if self.size and envelope.size:
            options += b" SIZE=%d" % envelope.size
        if envelope.utf8:
            options += b" SMTPUTF8"
        if not self.dsn:
            return (
                b"MAIL FROM:<%b>%b\r\n" % (envelope.return_path, options),
                b"RCPT TO:<%b>\r\n" % envelope.recipient,
                _DATA,
            )
        known_as = _xtext(envelope.return_path.partition(b"@")[0])
        # of an address beyond ASCII the type is another one (RFC 6533), which few relays know
        asked = b"" if envelope.utf8 else b" ORCPT=rfc822;" + _xtext(envelope.recipient)
        return (
            b"MAIL FROM:<%b>%b RET=HDRS ENVID=%b\r\n" % (envelope.return_path, options, known_as),
            b"RCPT TO:<%b> NOTIFY=FAILURE,DELAY%b\r\n" % (envelope.recipient, asked),
            _DATA,
        )


def _xtext(value: bytes) -> bytes:
    """As RFC 3461 section 4 writes what may hold anything."""
    return _NOT_XCHAR.sub(lambda found: b"+%02X" % found[0][0], value)
