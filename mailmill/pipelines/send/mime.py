"""Text as mail carries it: quoted-printable bodies and header values, in lines that no relay has to break.

Source: RFC 2045 section 6.7 (quoted-printable), RFC 2047 (encoded words), RFC 5322 sections 2.1.1 and 2.2.3 (folding).
"""

from __future__ import annotations

import binascii
import re
from contextlib import suppress
from datetime import datetime
from email.utils import format_datetime

import idna

LINE = 76
LONGEST = 998  # octets of any line (RFC 5322 2.1.1)
MAX_HEADER = 900  # characters of a value; the line they make is folded
_ROOM = 72  # of a wrapped line: leaves place for the soft break and for =2E in front
_SAFE = bytes(set(range(0x20, 0x7F)) - {0x3D})
_DOUBLE_SPACE = re.compile(rb" (?= )")
_OTHERS = re.compile(rb"[^ !-<>-~]")
_ODD = re.compile(rb"[\0\r\n]")  # no text holds them, and b2a_qp treats them in its own way
# as much as a line holds; an escape that would be cut begins the next one
_LINES = re.compile(rb".{70}(?:[^=]{2}|[^=](?==)|(?==))|.+", re.DOTALL)
# what ends a header line for some parser: C0, DEL, C1, and Unicode's line and paragraph separators
_BREAKS_HEADER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_WORD_BYTES = 39  # of UTF-8 in an encoded word: 64 characters, which fit beside any of our header names


def quoted_printable(text: str) -> bytes:
    """A text in quoted-printable: CRLF, lines <= 76, none begins with a dot or ends with a space."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").split(b"\n")
    return b"\r\n".join([_line(line) for line in lines])


def quoted_value(value: bytes) -> bytes:
    """A merge value that stands between two soft line breaks, in quoted-printable."""
    return _wrapped(_escaped(value))


def _line(line: bytes) -> bytes:
    done = _escaped(line)
    if done[-1:] == b" ":
        done = done[:-1] + b"=20"
    if done[:1] == b".":
        done = b"=2E" + done[1:]
    return _wrapped(done)


def _escaped(line: bytes) -> bytes:
    """Every octet but printable ASCII as =XX, and a space before a space too: then relaxed canonicalization (RFC 6376
    3.4.4) leaves a body as it is."""
    if line.translate(None, _SAFE):
        if _ODD.search(line):
            line = _OTHERS.sub(_hex, line)
        else:  # in C; its line breaks are taken out again, and what ends with $ has nothing special at its end
            line = binascii.b2a_qp(line + b"$").replace(b"=\n", b"")[:-1].replace(b"\t", b"=09")
    return _DOUBLE_SPACE.sub(b"=20", line) if b"  " in line else line


def _hex(found: re.Match[bytes]) -> bytes:
    return b"=%02X" % ord(found[0])


def _wrapped(line: bytes) -> bytes:
    """Soft breaks, never within an escape; a dot that would begin a line is escaped."""
    if len(line) > _ROOM:
        line = b"=\r\n".join(_LINES.findall(line)).replace(b"=\r\n.", b"=\r\n=2E")
    return b"=2E" + line[1:] if line[:1] == b"." else line


def breaks_header(text: str) -> bool:
    """Whether a text holds what could end a header line and begin another one."""
    return _BREAKS_HEADER.search(text) is not None


def structured(name: str, text: str) -> bytes:
    """A header line `name: text` with its CRLF, folded, as a field has it that knows no encoded words (RFC 2047 5).

    In: printable ASCII of MAX_HEADER characters at most, as is the name's line with them.
    """
    return _folded(f"{name}: {text.strip()}")


def unstructured(name: str, text: str, longest: int = LINE) -> bytes:
    """A header line `name: text` with its CRLF, folded, in encoded words where it has to be.

    In: text without control characters (breaks_header); longest: of a line, that a word of ASCII may make.
    """
    if text.isascii() and "=?" not in text and text == text.strip() and text:
        folded = _folded(f"{name}: {text}")
        if max(map(len, folded.split(b"\r\n"))) <= longest:
            return folded
    if not text:
        return f"{name}:\r\n".encode()  # an encoded word holds at least one character (RFC 2047 section 2)
    words = _encoded_words(text)
    start = f"{name}: ".encode() if len(name) + 2 + len(words[0]) <= LINE else f"{name}:\r\n ".encode()
    return start + b"\r\n ".join(words) + b"\r\n"


def _folded(line: str) -> bytes:
    """Folded before single spaces; a word that is too long for a line has one of its own."""
    lines = [""]
    for word in re.findall(r" *[^ ]+", line):
        if lines[-1] and len(lines[-1]) + len(word) > LINE:
            lines.append(word)
        else:
            lines[-1] += word
    return "\r\n".join([*lines, ""]).encode()


def _encoded_words(text: str) -> list[bytes]:
    words, part = [], b""
    for character in text:
        octets = character.encode("utf-8", "replace")
        if len(part) + len(octets) > _WORD_BYTES:
            words.append(part)
            part = b""
        part += octets
    return [b"=?utf-8?b?" + binascii.b2a_base64(word, newline=False) + b"?=" for word in [*words, part]]


def mailbox(name: str, display: str, address: str) -> bytes:
    """A header line with one mailbox, as From and Reply-To have it.

    In:     an address whose local part is ASCII; its domain may be an IDN, and goes out as punycode.
    Raises: ValueError for what is no address or would break the header.
    """
    if breaks_header(display) or breaks_header(address):
        raise ValueError(f"{name} holds a control character")
    mail = ascii_address(address)
    if not display.strip():
        return f"{name}: {mail}\r\n".encode()
    words = _phrase(display.strip())
    lines = f"{name}: ".encode() + b"\r\n ".join(words)
    last = len(lines) - lines.rfind(b"\n")
    return lines + (b" " if last + len(mail) < LINE else b"\r\n ") + f"<{mail}>\r\n".encode()


def _phrase(display: str) -> list[bytes]:
    """A display name: atoms, a quoted string, or encoded words (never within quotes, RFC 2047 section 5)."""
    if not display.isascii() or "=?" in display or len(display) > _ROOM - 14 or "  " in display:
        return _encoded_words(display)
    if _ATOMS.fullmatch(display):
        return [display.encode()]
    return [b'"' + re.sub(r'(["\\])', r"\\\1", display).encode() + b'"']


def ascii_address(address: str) -> str:
    """An address as it goes on the wire without SMTPUTF8.

    Raises: ValueError when its local part is not ASCII, or its domain is none.
    """
    local, at, domain = address.rpartition("@")
    if not at or not local.isascii():
        raise ValueError("an address needs a local part in ASCII and a domain")
    try:
        return f"{local}@{domain if domain.isascii() else idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError as error:
        raise ValueError(f"{domain} is no domain name: {error}") from None


def ascii_host(host: str) -> str:
    """A web page's host as DNS knows it, where a browser would look for it (UTS 46, non-transitional).

    Raises: ValueError when it is no name.
    """
    if host.isascii():
        return host
    with suppress(idna.IDNAError):
        return idna.encode(host, uts46=True).decode()
    return host.encode("idna").decode()  # emoji, which IDNA 2008 does not have; raises UnicodeError, which is one


def date(now: datetime) -> bytes:
    """A moment as the Date header has it."""
    return format_datetime(now).encode()
