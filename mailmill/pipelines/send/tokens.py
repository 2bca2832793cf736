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
from base64 import b32decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from struct import Struct
from typing import Literal

Purpose = Literal["open", "click", "unsubscribe", "return_path"]

TAG = 12  # bytes; 96 bits
IN_BLOCK = 5  # tags in one hash of 60 bytes
NOBODY = 0  # the message of a preview or a test: no row of the ledger, and nothing is counted of it
_HEAD = Struct(">HHIIHI")  # key, ordinal, tenant, campaign, message in 2 + 4 bytes
_FORTY_BITS = Struct(">BIBIBI")  # three times, the highest byte apart
_SUBJECT = Struct(">IIQI")  # what is hashed: tenant, campaign, message, block
_BASE64 = re.compile(r"[A-Za-z0-9_-]{40}", re.ASCII)
_BASE32 = re.compile(r"[a-z2-7]{48}", re.ASCII)
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), str.maketrans("-_", "+/")
_PERSON = {"tracking": b"mm tracking", "unsubscribe": b"mm unsubscribe", "return_path": b"mm return path"}
_NO_KEY = bytes(32)
_BLOCK_0 = bytes(4)
_ALPHABET = b"abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [bytes([one, two]) for one in _ALPHABET for two in _ALPHABET]


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


class MessageTokens:
    """Makes every token of one campaign's messages.

    A token's head (key, ordinal, tenant, campaign: 16 characters of base64url) is the same in every message, so it
    belongs to what is encoded once; per message there is one hash for five links and the tail of 24 characters.
    """

    def __init__(self, tenant: int, campaign: int, *, tracking: Key, unsubscribe: Key, return_path: Key) -> None:
        self._ids = tenant, campaign
        self._keys = {"tracking": tracking, "unsubscribe": unsubscribe, "return_path": return_path}
        subject = _SUBJECT.pack(tenant, campaign, 0, 0)[:8]
        self._tracked = _hash(tracking.secret, "tracking", subject)
        self._left = _hash(unsubscribe.secret, "unsubscribe", subject)
        self._back = _hash(return_path.secret, "return_path", subject)
        self._back_start = -1, b""  # one value, so that threads never see half of it

    def head(self, ordinal: int) -> bytes:
        """What the tracking token of an ordinal begins with."""
        return _url(self._head("tracking", ordinal))

    def leave_head(self) -> bytes:
        """What the unsubscribe token begins with."""
        return _url(self._head("unsubscribe", 0))

    def blocks(self, ordinals: Sequence[int]) -> list[tuple[bytes, list[slice]]]:
        """How `tails` gets at the tags of some ordinals, which ascend: each hash, and the slices of it."""
        found: dict[int, list[slice]] = {}
        for ordinal in ordinals:
            block, slot = divmod(ordinal, IN_BLOCK)
            found.setdefault(block, []).append(slice(slot * TAG, slot * TAG + TAG))
        return [(block.to_bytes(4, "big"), slices) for block, slices in found.items()]

    def tails(self, message: int, blocks: Sequence[tuple[bytes, list[slice]]]) -> list[bytes]:
        """The tails of a message's unsubscribe token and of its tracking tokens, 24 characters each."""
        number = message.to_bytes(8, "big")
        tags = [b"", _digest(self._left, number + _BLOCK_0)[:TAG]]
        for block, slices in blocks:
            digest = _digest(self._tracked, number + block)
            tags += [digest[part] for part in slices]
        text = binascii.b2a_base64(number[2:].join(tags), newline=False).translate(_TO_URL)
        return [text[at : at + 24] for at in range(0, len(text), 24)]

    def back(self, message: int) -> bytes:
        """The token in return path and Message-ID, whole: 48 characters of lower-case base32."""
        high, start = self._back_start
        if message >> 24 != high:  # 15 of its 30 bytes change once in 16 million messages
            high = message >> 24
            start = _base32(self._head("return_path", 0) + high.to_bytes(3, "big"))
            self._back_start = high, start
        number = message.to_bytes(8, "big")
        return start + _base32(number[5:] + _digest(self._back, number + _BLOCK_0)[:TAG])

    def _head(self, purpose: str, ordinal: int) -> bytes:
        return _HEAD.pack(self._keys[purpose].id, ordinal, *self._ids, 0, 0)[:12]


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


def _tag(secret: bytes, name: str, tenant: int, campaign: int, message: int, ordinal: int) -> bytes:
    block, slot = divmod(ordinal, IN_BLOCK)
    digest = _hash(secret, name, _SUBJECT.pack(tenant, campaign, message, block)).digest()
    return digest[slot * TAG : slot * TAG + TAG]


def _digest(begun: hashlib.blake2b, rest: bytes) -> bytes:
    hashed = begun.copy()
    hashed.update(rest)
    return hashed.digest()


def _hash(secret: bytes, name: str, subject: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(subject, digest_size=TAG * IN_BLOCK, key=secret, person=_PERSON[name])


def _url(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL)


def _base32(raw: bytes) -> bytes:
    """Fifteen bytes in 24 characters; eight times as fast as base64.b32encode, which every message would pay for."""
    a, b, c, d, e, f = _FORTY_BITS.unpack(raw)
    two = _PAIRS
    return b"".join((
        two[a << 2 | b >> 30], two[b >> 20 & 1023], two[b >> 10 & 1023], two[b & 1023],
        two[c << 2 | d >> 30], two[d >> 20 & 1023], two[d >> 10 & 1023], two[d & 1023],
        two[e << 2 | f >> 30], two[f >> 20 & 1023], two[f >> 10 & 1023], two[f & 1023],
    ))  # fmt: skip


def _decoded(token: str, purpose: Purpose) -> bytes | None:
    if purpose == "return_path":
        folded = token.lower()
        return b32decode(folded.upper()) if _BASE32.fullmatch(folded) else None
    # hyphens at the end of an address in a text are no part of it for some programs, such as Thunderbird
    token = token.ljust(40, "-")
    return binascii.a2b_base64(token.translate(_FROM_URL)) if _BASE64.fullmatch(token) else None
