"""The form of API keys."""

from __future__ import annotations

import secrets

import pytest

from mailmill.pipelines.read import keys


def test_a_new_key_is_found_by_its_prefix_and_proven_by_its_hash() -> None:
    key, prefix, digest = keys.make(secrets.token_bytes, secrets.token_urlsafe)
    assert keys.prefix(key) == prefix and keys.proves(key, digest)
    assert key.startswith(f"mm_{prefix}_") and len(key) == 57
    assert prefix.encode() not in digest


@pytest.mark.parametrize("text", ["", "mm_", "mm__", "mm_short_x", "x" * 57, "mm_abcdefghij_" + "é" * 43])
def test_F49_what_is_no_key_has_no_prefix_and_proves_nothing(text: str) -> None:
    assert keys.prefix(text) == ""
    assert not keys.proves(text, None)
    assert not keys.proves(text, keys.digest("another"))


def test_F49_the_stand_in_of_an_unknown_prefix_opens_nothing() -> None:
    assert not keys.proves("the key of nobody", None)
