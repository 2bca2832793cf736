"""A campaign's frozen content, compiled once, and one message of it for each recipient.

What is the same for everybody is encoded once and joined with the recipient's values and tokens; the bytes are final:
CRLF, quoted-printable, no line begins with a dot, signed by DKIM where the identity has keys.

Source: RFC 5322, RFC 2046 section 5.1.4, RFC 8058 (one-click unsubscribe), RFC 6376 (DKIM).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol

from mailmill.errors import TerminalError
from mailmill.pipelines.send import dkim, headers, links
from mailmill.pipelines.send.parts import MAX_BYTES, MISSING, Body, NoValue, Subject
from mailmill.pipelines.send.slots import Names
from mailmill.pipelines.send.tokens import Key, MessageTokens

# what the local part has beyond ASCII needs SMTPUTF8 (RFC 6531), which the relay is asked for
_ADDRESS = re.compile(
    rb"""(?=.{3,254}\Z)(?:[A-Za-z0-9.!#$%&'*+/=?^_`{|}~\x80-\xff-]{1,64}|"(?:[ !#-\[\]-~]|\\[ -~]){0,62}")
    @(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?""",
    re.VERBOSE,
)
_OWN = (b"\r\nTo: ", b"\r\nSubject: ", b"\r\nDate: ", b"\r\nMessage-ID: ", b"\r\nList-Unsubscribe: ")
_HEADER_LINE = re.compile(rb"[^\r\n]+\r\n(?:[ \t][^\r\n]*\r\n)*")  # with its folds


class Unrenderable(TerminalError):
    """This recipient cannot be sent to. `reason` is the ledger's code: render_error or unsupported_address."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Outgoing(NamedTuple):
    """One message as it goes on the wire: header and body in CRLF lines, dots stuffed, the final dot not included."""

    return_path: bytes
    recipient: bytes
    content: bytes


class Row(Protocol):
    """A recipient as it was claimed."""

    @property
    def id(self) -> int: ...
    @property
    def address(self) -> bytes: ...
    @property
    def values(self) -> Sequence[bytes]:
        """In the order of Composer.fields, UTF-8, MISSING where there is none."""
        ...

    @property
    def variant(self) -> int:
        """Which of the campaign's contents this recipient gets."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeys:
    """What signs a campaign's tokens now."""

    tracking: Key
    unsubscribe: Key
    return_path: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class DkimKey:
    """A key of the identity, loaded."""

    domain: str
    selector: str
    key: dkim.PrivateKey


class Composer:
    """Makes the messages of one campaign. Safe in threads: where DKIM's RSA is the cost, batches go to several.

    In:     content as planning froze it (campaigns.content); the keys of the campaign's identity.
    Raises: Misconfigured, LookupError or ValueError when the content cannot be used at all.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        *,
        tenant: int,
        campaign: int,
        keys: SigningKeys,
        dkim_keys: Sequence[DkimKey] = (),
    ) -> None:
        self._tokens = MessageTokens(
            tenant, campaign, tracking=keys.tracking, unsubscribe=keys.unsubscribe, return_path=keys.return_path
        )
        self.fields: tuple[str, ...] = tuple(content["merge_fields"])
        self._at_domain = b"@" + str(content["return_path_domain"]).encode()
        leave_head = self._tokens.leave_head()
        # one https, one mailto if somebody reads it (RFC 8058 2); folded between them, never within
        leave_url = f"{str(content['public_url']).rstrip('/')}/u/".encode() + leave_head
        self._behind_id = self._at_domain + b">\r\nList-Unsubscribe: <" + leave_url
        leave_mail = headers.leave_by_mail(content)
        self._by_mail = b">,\r\n <" + leave_mail + leave_head if leave_mail else b""
        seed = f"{tenant}.{campaign}.{content['list_id']}".encode()
        boundary = "=_mailmill_" + hashlib.sha256(seed).hexdigest()[:16]  # `=_` is never in quoted-printable
        self._fixed = headers.fixed(content, tenant=tenant, campaign=campaign, boundary=boundary)
        self._variants = [_Variant(content, one, self._tokens, boundary) for one in content["variants"]]
        self._signing = _Signing(self._fixed, dkim_keys) if dkim_keys else None

    @property
    def costly(self) -> bool:
        """Whether a message is better made ahead, in threads: for RSA; Ed25519 costs less than they do, and a large
        block would keep the interpreter's lock from the loop for longer than it takes by itself."""
        return self._signing is not None and self._signing.costly

    def compose_all(self, rows: Iterable[Row], date: bytes) -> list[Outgoing | Unrenderable]:
        """The messages of some recipients, in their order; for one that cannot be rendered, why."""
        return [self.composed(row, date) for row in rows]

    def composed(self, row: Row, date: bytes) -> Outgoing | Unrenderable:
        """The message of one recipient, or why there is none."""
        try:
            return self.compose(row.id, row.address, row.values, date, row.variant)
        except Unrenderable as refused:
            return refused

    def compose(self, message: int, address: bytes, values: Sequence[bytes], date: bytes, variant: int = 0) -> Outgoing:
        """The message of one recipient. In: as Row has it; date as mime.date gives it. Raises: Unrenderable."""
        if len(values) != len(self.fields):
            raise Unrenderable("render_error", f"{len(values)} merge values for {len(self.fields)} fields")
        if not (_ADDRESS.fullmatch(address) and (address.isascii() or _printable(address))):
            raise Unrenderable("unsupported_address", "no address that SMTP can carry")
        back = self._tokens.back(message)
        try:
            one = self._variants[variant]
            tails = self._tokens.tails(message, one.blocks)
            body = one.body.pieces(values, tails)
            subject = one.subject.line(values)
        except NoValue as error:
            raise Unrenderable("render_error", f"the merge field {self.fields[error.field]} has no value") from None
        except Exception as error:  # Jinja2 and its filters raise what they like; it is this recipient's values
            raise Unrenderable("render_error", f"{type(error).__name__}: {error}"[:200]) from None
        own = b"".join([
            b"To: ", address, b"\r\n", subject, b"Date: ", date, b"\r\nMessage-ID: <", back, self._behind_id, tails[0],
            *([self._by_mail, tails[0]] if self._by_mail else ()), b">\r\n",
        ])  # fmt: skip
        signed: tuple[bytes, ...] = ()
        if self._signing is not None:
            body = [b"".join(body)]
            signed = self._signing.lines(own, body[0], date)
        content = b"".join([*signed, self._fixed, own, b"X-Mailmill-Id: ", back, b"\r\n\r\n", *body])
        if len(content) > MAX_BYTES:
            raise Unrenderable("render_error", f"the message has {len(content):,} bytes")
        return Outgoing(b"b+" + back + self._at_domain, address, content)


def _printable(address: bytes) -> bool:
    """Whether bytes beyond ASCII are UTF-8 without what a header must not hold (line ends of Unicode, say)."""
    try:
        return address.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


class _Variant:
    """One of the campaign's contents, compiled."""

    def __init__(
        self, content: Mapping[str, Any], variant: Mapping[str, Any], tokens: MessageTokens, boundary: str
    ) -> None:
        ordinals = [int(link) for link in variant["links"]]  # of the campaign's links, ascending
        urls = [str(content["links"][ordinal]) for ordinal in ordinals]
        tracked = [0, *[ordinal + 1 for ordinal in ordinals]]
        base = str(content["public_url"]).rstrip("/")
        names = Names(
            fields=tuple(content["merge_fields"]),
            constants={name: str(content[name]) for name in ("postal_address", "tenant_name")},
            urls=(
                f"{base}/u/{tokens.leave_head().decode()}",
                *[f"{base}/{'c' if n else 'o'}/{tokens.head(n).decode()}" for n in tracked],
            ),
        )
        self.blocks = tokens.blocks(tracked)
        self.subject = Subject(str(variant["subject"]), Names(fields=names.fields, constants=names.constants))
        kind = (
            f"--{boundary}\r\nContent-Type: text/%s; charset=utf-8\r\n"
            "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        )
        self.body = Body(
            [
                ((kind % "plain").encode(), "text", links.tracked_text(str(variant["text"]), urls)),
                (("\r\n" + kind % "html").encode(), "html", links.tracked_html(str(variant["html"]), urls)),
            ],
            f"\r\n--{boundary}--\r\n".encode(),
            names,
        )


def _relaxed(own: bytes) -> bytes:
    """A message's own header lines in relaxed form; nearly all need but small letters and no folds."""
    text = b"\r\n" + own.replace(b"\r\n ", b" ")
    if b"  " not in text and b" \r\n" not in text and b"\t" not in text and b"\r\nSubject: " in text:
        for line in _OWN:
            text = text.replace(line, line[:-1].lower(), 1)  # a value holds no line end, so this is the name
        return text[2:]
    return b"".join([dkim.relaxed(line) + b"\r\n" for line in _HEADER_LINE.findall(own)])


class _Signing:
    """The signatures of one campaign's messages."""

    def __init__(self, fixed: bytes, keys: Sequence[DkimKey]) -> None:
        lines = _HEADER_LINE.findall(fixed)
        wanted = {name.lower().encode(): name for name in dkim.SIGNED}
        kept = [(wanted[name], line) for line in lines if (name := line.partition(b":")[0].lower()) in wanted]
        own = [name[2:-2].decode() for name in _OWN]
        names = (*own, *[name for name, _ in kept])
        self._fixed = b"".join([dkim.relaxed(line) + b"\r\n" for _, line in kept])
        self._signers = [
            dkim.Signer(domain=one.domain, selector=one.selector, key=one.key, names=names) for one in keys
        ]
        self.costly = any(dkim.algorithm_of(one.key) == "rsa" for one in keys)
        self._at = b"", 0

    def lines(self, own: bytes, body: bytes, date: bytes) -> tuple[bytes, ...]:
        known, at = self._at
        if known != date:
            at = int(parsedate_to_datetime(date.decode()).timestamp())
            self._at = date, at
        headers = _relaxed(own) + self._fixed
        hashed = dkim.body_hash(body)
        return tuple(signer.line(headers, hashed, at) for signer in self._signers)


__all__ = ["MISSING", "Composer", "DkimKey", "Outgoing", "SigningKeys", "Unrenderable"]
