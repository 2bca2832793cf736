"""Signed tokens that name one message: in pixel, links, unsubscribe link, return path and Message-ID.

A token is 30 bytes: key id (2), ordinal (2), tenant (4), campaign (4), message (6), tag (12). In a URL it is 40
characters of base64url, in a mail address 48 of lower-case base32, both without padding.

The tag is a slice of one keyed BLAKE2b, so that one hash signs five tokens: the ordinal (0 the pixel, n + 1 link n)
chooses block and slice. Each purpose hashes under a name and a key of its own: who can make a click's token cannot make
an unsubscribe's.

Source: RFC 7693 (keyed BLAKE2b, personalisation), RFC 4648 (base64url, base32).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b32decode, b32encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from struct import Struct
from typing import Literal

Purpose = Literal["open", "click", "unsubscribe", "return_path"]

TAG = 12  # bytes; 96 bits
IN_BLOCK = 5  # tags in one hash of 60 bytes
MAX_LINKS = 4096
_HEAD = Struct(">HHIIHI")  # key, ordinal, tenant, campaign, message in 2 + 4 bytes
_SUBJECT = Struct(">IIQI")  # what is hashed: tenant, campaign, message, block
_BASE64 = re.compile(r"[A-Za-z0-9_-]{40}", re.ASCII)
_BASE32 = re.compile(r"[a-z2-7]{48}", re.ASCII)
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), str.maketrans("-_", "+/")
_PERSON = {"tracking": b"mm tracking", "unsubscribe": b"mm unsubscribe", "return_path": b"mm return path"}
_NO_KEY = bytes(32)


@dataclass(frozen=True, slots=True)
class Key:
    """A row of signing_keys."""

    id: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """What a genuine token names. `link` is the ordinal of a click's link, None for every other purpose."""

    tenant: int
    campaign: int
    message: int
    link: int | None = None


class TrackingSigner:
    """Makes the tokens of pixel and links."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def encoded(self, tenant: int, campaign: int, message: int, links: int) -> bytes:
        """All tokens of one message behind each other, 40 bytes each: the pixel's, then one a link."""
        out, key, high, low = [], self._key.id, message >> 32, message & 0xFFFFFFFF
        pack, secret, person = _HEAD.pack, self._key.secret, _PERSON["tracking"]
        digest = b""
        for ordinal in range(links + 1):
            slot = ordinal % IN_BLOCK
            if slot == 0:
                digest = hashlib.blake2b(
                    _SUBJECT.pack(tenant, campaign, message, ordinal // IN_BLOCK),
                    digest_size=TAG * IN_BLOCK, key=secret, person=person,
                ).digest()  # fmt: skip
            out.append(pack(key, ordinal, tenant, campaign, high, low))
            out.append(digest[slot * TAG : slot * TAG + TAG])
        return binascii.b2a_base64(b"".join(out), newline=False).translate(_TO_URL)

    def tokens(self, tenant: int, campaign: int, message: int, links: int) -> list[str]:
        """[pixel, link 0, link 1, …] of one message."""
        text = self.encoded(tenant, campaign, message, links).decode()
        return [text[at : at + 40] for at in range(0, len(text), 40)]


def unsubscribe_token(key: Key, tenant: int, campaign: int, message: int) -> str:
    """The token of the unsubscribe link, base64url."""
    raw = _raw(key, "unsubscribe", tenant, campaign, message)
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL).decode()


def return_path_token(key: Key, tenant: int, campaign: int, message: int) -> str:
    """The token in return path and Message-ID: lower-case base32, since mail servers may fold case."""
    return b32encode(_raw(key, "return_path", tenant, campaign, message)).decode().lower()


def verify(token: str, keys: Mapping[int, bytes], purpose: Purpose) -> Token | None:
    """What the token names; None for a forged, damaged or foreign one, found out in constant time.

    In: keys of this purpose only, id -> secret (retired ones too: old mail still comes back).
    """
    raw = _decoded(token, purpose)
    if raw is None:
        return None
    key, ordinal, tenant, campaign, high, low = _HEAD.unpack(raw[:-TAG])
    message = high << 32 | low
    name = "tracking" if purpose in ("open", "click") else purpose
    expected = _tag(keys.get(key, _NO_KEY), name, tenant, campaign, message, ordinal)
    if not compare_digest(expected, raw[-TAG:]) or key not in keys:
        return None
    if (purpose == "click") != (ordinal > 0):
        return None
    return Token(tenant, campaign, message, ordinal - 1 if ordinal else None)


def _raw(key: Key, name: str, tenant: int, campaign: int, message: int) -> bytes:
    head = _HEAD.pack(key.id, 0, tenant, campaign, message >> 32, message & 0xFFFFFFFF)
    return head + _tag(key.secret, name, tenant, campaign, message, 0)


def _tag(secret: bytes, name: str, tenant: int, campaign: int, message: int, ordinal: int) -> bytes:
    block, slot = divmod(ordinal, IN_BLOCK)
    digest = hashlib.blake2b(
        _SUBJECT.pack(tenant, campaign, message, block), digest_size=TAG * IN_BLOCK, key=secret, person=_PERSON[name]
    ).digest()
    return digest[slot * TAG : slot * TAG + TAG]


def _decoded(token: str, purpose: Purpose) -> bytes | None:
    if purpose == "return_path":
        folded = token.lower()
        return b32decode(folded.upper()) if _BASE32.fullmatch(folded) else None
    return binascii.a2b_base64(token.translate(_FROM_URL)) if _BASE64.fullmatch(token) else None
