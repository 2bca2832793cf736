"""Tokens one at a time, as a message would carry them."""

from __future__ import annotations

from mailmill.pipelines.send.tokens import Key, MessageTokens


def maker(key: Key, tenant: int, campaign: int) -> MessageTokens:
    return MessageTokens(tenant, campaign, tracking=key, unsubscribe=key, return_path=key)


def tracking_tokens(key: Key, tenant: int, campaign: int, message: int, links: int) -> list[str]:
    """[pixel, link 0, link 1, …] of one message."""
    made, ordinals = maker(key, tenant, campaign), range(links + 1)
    tails = made.tails(message, made.blocks(ordinals))[1:]
    return [(made.head(n) + tail).decode() for n, tail in zip(ordinals, tails, strict=True)]


def unsubscribe_token(key: Key, tenant: int, campaign: int, message: int) -> str:
    made = maker(key, tenant, campaign)
    return (made.leave_head() + made.tails(message, [])[0]).decode()


def return_path_token(key: Key, tenant: int, campaign: int, message: int) -> str:
    return maker(key, tenant, campaign).back(message).decode()
