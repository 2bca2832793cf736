"""Whether what stands in DNS is a key with which verifiers find our signatures, or the relay's, to be right.

Source: RFC 6376 (sections 3.2 tag lists, 3.6.1 key records, 3.6.2.2 one record a name), RFC 8463 (Ed25519).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
ALGORITHMS = ("rsa", "ed25519")


def fault(texts: Sequence[str], ours: str | None) -> str | None:
    """What is wrong with the TXT records at a key's name; None: verifiers take the key.

    In: the record that our key wants, None where the relay has the key.
    """
    if not texts:
        return "has no key"
    if len(texts) > 1:
        return f"has {len(texts)} TXT records, and a verifier may read any of them: only one may stand there"
    said = tags(texts[0])
    if said is None:
        return "has a record that is no list of tags, each once"
    if said.get("v", "DKIM1") != "DKIM1" or "v" in list(said)[1:]:
        return "has a record in which v= is not DKIM1, or does not stand first: nobody reads it"
    key, algorithm = said.get("p"), said.get("k", "rsa")
    if key is None:
        return "has no key"
    if not key:
        return "has a key that was revoked (p= is empty)"
    wanted = tags(ours or "") or {}
    if ours is not None and key != wanted["p"]:
        return "has another key"
    if algorithm not in ([wanted["k"]] if ours is not None else ALGORITHMS):
        return f"has a key of another kind (k={algorithm})"
    if not _BASE64.fullmatch(key):
        return "has a key that is not base64"
    if "sha256" not in said.get("h", "sha256").split(":"):
        return f"has a key that is not for SHA-256 (h={said['h']}), by which mail is signed"
    if not {"*", "email"} & set(said.get("s", "*").split(":")):
        return f"has a key that is not for e-mail (s={said['s']})"
    return None


def testing(texts: Sequence[str]) -> bool:
    """Whether the domain only tries DKIM: a verifier treats its mail as if nobody had signed it."""
    return any("y" in (tags(text) or {}).get("t", "").split(":") for text in texts)


def tags(record: str) -> dict[str, str] | None:
    """A tag=value list in its order, white space left out; None for what is none, or has a tag twice."""
    found: dict[str, str] = {}
    for part in record.rstrip("; \t\r\n").split(";"):
        name, equals, value = part.partition("=")
        name = name.strip(" \t\r\n")
        if not equals or not _NAME.fullmatch(name) or name in found:
            return None
        found[name] = re.sub(r"\s", "", value)
    return found
