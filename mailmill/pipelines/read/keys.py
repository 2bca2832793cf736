"""API keys: `mm_<prefix>_<secret>`. The prefix finds the row, the hash of the whole key proves it. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

_KEY = re.compile(r"mm_([a-z0-9]{10})_([A-Za-z0-9_-]{43})")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_NOBODY = hashlib.sha256(b"the key of nobody").digest()


def make(token_bytes: Callable[[int], bytes], token_urlsafe: Callable[[int], str]) -> tuple[str, str, bytes]:
    """A new key from the given sources of randomness. Out: (key, its prefix, its hash)."""
    prefix = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in token_bytes(10))
    key = f"mm_{prefix}_{token_urlsafe(32)}"
    return key, prefix, digest(key)


def digest(key: str) -> bytes:
    """What is stored. A plain hash is enough: the secret has 256 random bits, so nobody can guess along it."""
    return hashlib.sha256(key.encode()).digest()


def prefix(key: str) -> str:
    """What finds the key's row; empty, which no row has, when the text has not the form of a key."""
    match = _KEY.fullmatch(key)
    return match[1] if match else ""


def proves(key: str, stored: bytes | None) -> bool:
    """Whether `key` is the one stored. An unknown prefix (None) costs what a wrong secret costs (F49)."""
    equal = hmac.compare_digest(digest(key), _NOBODY if stored is None else stored)
    return equal and stored is not None
