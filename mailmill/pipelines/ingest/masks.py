"""An address as it may be shown: nobody is told from it. Not in addresses.py, so that who sends does without polars."""

from __future__ import annotations


def mask(address: str) -> str:
    """One address for metadata, logs and stored replies: 'ann@example.org' -> 'a***@e***.org'."""
    local, at, domain = address.strip().rpartition("@")
    if not at:
        return address[:3] + "***"
    top = domain.rpartition(".")[2] if "." in domain else ""
    return f"{local[:1]}***@{domain[:1]}***" + (f".{top}" if top else "")
