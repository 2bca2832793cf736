"""Tokens: what is signed comes back, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tokens import return_path_token, tracking_tokens, unsubscribe_token

from mailmill.pipelines.send.tokens import Key, Purpose, Token, verify

KEY, OTHER = Key(3, b"k" * 32), Key(4, b"o" * 32)
KEYS = {3: KEY.secret, 4: OTHER.secret}
ids = st.integers(1, 2**31 - 1)


@given(ids, ids, st.integers(1, 2**48 - 1), st.integers(0, 23))
def test_pixel_and_links_come_back_as_signed(tenant: int, campaign: int, message: int, links: int) -> None:
    pixel, *clicks = tracking_tokens(KEY, tenant, campaign, message, links)
    assert verify(pixel, KEYS, "open") == Token(tenant, campaign, message)
    assert [verify(click, KEYS, "click") for click in clicks] == [
        Token(tenant, campaign, message, link) for link in range(links)
    ]
    assert {len(token) for token in (pixel, *clicks)} == {40}


@given(ids, ids, st.integers(1, 2**48 - 1))
def test_unsubscribe_and_return_path_come_back_as_signed(tenant: int, campaign: int, message: int) -> None:
    named = Token(tenant, campaign, message)
    assert verify(unsubscribe_token(KEY, tenant, campaign, message), KEYS, "unsubscribe") == named
    returned = return_path_token(OTHER, tenant, campaign, message)
    assert verify(returned, KEYS, "return_path") == verify(returned.upper(), KEYS, "return_path") == named
    assert len(returned) == 48 and returned.islower()


def all_tokens() -> dict[Purpose, str]:
    pixel, click = tracking_tokens(KEY, 1, 2, 3, 1)
    return {
        "open": pixel, "click": click, "unsubscribe": unsubscribe_token(KEY, 1, 2, 3),
        "return_path": return_path_token(KEY, 1, 2, 3),
    }  # fmt: skip


@pytest.mark.parametrize("made", ["open", "click", "unsubscribe", "return_path"])
@pytest.mark.parametrize("asked", ["open", "click", "unsubscribe", "return_path"])
def test_a_token_serves_its_purpose_only_even_under_the_same_key(made: Purpose, asked: Purpose) -> None:
    assert (verify(all_tokens()[made], KEYS, asked) is not None) == (made == asked)


@pytest.mark.parametrize("purpose", ["open", "click", "unsubscribe", "return_path"])
def test_one_changed_character_makes_it_worthless(purpose: Purpose) -> None:
    token = all_tokens()[purpose]
    for at, was in enumerate(token):
        for now in "a7" if was not in "a7" else "bc":
            assert verify(token[:at] + now + token[at + 1 :], KEYS, purpose) is None


@pytest.mark.parametrize(
    "token", ["", "x", "é" * 40, "A" * 39, "A" * 41, "A" * 40 + "\n", "a" * 48, "=" * 40, "+" * 40, "A" * 10_000]
)
@pytest.mark.parametrize("purpose", ["open", "click", "unsubscribe", "return_path"])
def test_garbage_is_no_token(token: str, purpose: Purpose) -> None:
    assert verify(token, KEYS, purpose) is None


def test_a_link_whose_last_hyphens_a_mail_program_left_out_is_the_same() -> None:
    """Thunderbird's mozTXTToHTMLConv ends an address in a text before such: one token of 64 has one there."""
    ended = [token for n in range(1, 9000) if (token := unsubscribe_token(KEY, 1, 2, n)).endswith("-")]
    assert ended and any(token.endswith("--") for token in ended)
    for token in ended:
        assert verify(token.rstrip("-"), KEYS, "unsubscribe") == verify(token, KEYS, "unsubscribe") is not None
    assert verify(unsubscribe_token(KEY, 1, 2, 3)[:-1], KEYS, "unsubscribe") is None


def test_a_key_that_is_gone_verifies_nothing() -> None:
    assert verify(unsubscribe_token(KEY, 1, 2, 3), {4: OTHER.secret}, "unsubscribe") is None
    assert verify(unsubscribe_token(Key(9, bytes(32)), 1, 2, 3), KEYS, "unsubscribe") is None


def test_a_secret_is_not_shown() -> None:
    assert "k" * 8 not in repr(KEY)
