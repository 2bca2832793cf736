"""What requests look up, remembered for a while: signing keys, links, webhooks, tenants' names. Threads share it."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from mailmill.errors import MailmillError, StoreUnavailable, TransientError
from mailmill.io.postgres import ingress
from mailmill.io.postgres.ingress_pool import IngressPool
from mailmill.pipelines.send import tokens
from mailmill.pipelines.send.tokens import Token

logger = logging.getLogger(__name__)
KeyPurpose = Literal["tracking", "unsubscribe", "return_path"]
KEY_OF: Mapping[tokens.Purpose, KeyPurpose] = {
    "open": "tracking", "click": "tracking", "unsubscribe": "unsubscribe", "return_path": "return_path",
}  # fmt: skip
V = TypeVar("V")


class Remembered(Generic[V]):
    """Answers by key for `ttl_s`, at most `size` of them; while the store is down an old answer is better than none."""

    def __init__(self, ttl_s: float, size: int, clock: Callable[[], float]) -> None:
        self._ttl_s, self._size, self._clock = ttl_s, size, clock
        self._known: OrderedDict[Hashable, tuple[float, V]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, key: Hashable) -> V | None:
        """The answer while it is fresh."""
        found = self._known.get(key)
        return found[1] if found is not None and found[0] > self._clock() else None

    def get(self, key: Hashable, ask: Callable[[], V], *, keep: Callable[[V], bool] = lambda answer: True) -> V:
        """Raises: what `ask` raises, when nothing at all is remembered."""
        found = self._known.get(key)
        if found is not None and found[0] > self._clock():
            return found[1]
        try:
            answer = ask()
        except TransientError:
            if found is None:
                raise
            return found[1]
        if not keep(answer):
            return answer
        with self._lock:
            self._known[key] = (self._clock() + self._ttl_s, answer)
            self._known.move_to_end(key)
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return answer


class KeyRing:
    """The signing keys. They are loaded again when a token does not verify, since there may be a new key."""

    def __init__(
        self, load: Callable[[KeyPurpose], Mapping[int, bytes]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._load, self._clock = load, clock
        self._keys: dict[KeyPurpose, Mapping[int, bytes]] = {}
        self._asked_at = -1e9
        self._lock = threading.Lock()

    def verify(self, token: str, purpose: tokens.Purpose) -> Token | None:
        return tokens.verify(token, self.keys(KEY_OF[purpose]), purpose)

    def keys(self, purpose: KeyPurpose) -> Mapping[int, bytes]:
        return self._keys.get(purpose, {})

    @property
    def loaded(self) -> bool:
        return bool(self._keys)

    def older_than(self, seconds: float) -> bool:
        return self._clock() - self._asked_at > seconds

    def refresh(self) -> None:
        """Raises: StoreUnavailable."""
        with self._lock:
            self._asked_at = self._clock()
            self._keys = {purpose: self._load(purpose) for purpose in set(KEY_OF.values())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Who may report what: a transport of a tenant, and the secret that signs its reports."""

    tenant_id: int
    transport_id: int
    secret: str = field(repr=False)


class Directory:
    """Reads through the pool, each time as the one tenant it is about."""

    def __init__(
        self, pool: IngressPool, secret: Callable[[str], str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool, self._secret = pool, secret
        # a campaign's links are frozen with it
        self._links: Remembered[tuple[str, ...]] = Remembered(3600, 10_000, clock)
        self._webhooks: Remembered[Webhook | None] = Remembered(15, 10_000, clock)
        self._names: Remembered[str | None] = Remembered(300, 10_000, clock)

    def known_links(self, tenant: int, campaign: int) -> tuple[str, ...] | None:
        """A campaign's links when they are remembered; asks nobody."""
        return self._links.known((tenant, campaign))

    def links(self, tenant: int, campaign: int) -> tuple[str, ...]:
        """A campaign's links by ordinal; empty for a campaign that this tenant does not have, or that has not begun.

        Raises: StoreUnavailable.
        """

        def ask() -> tuple[str, ...]:
            with self._pool.transaction(tenant_id=tenant) as conn:
                return ingress.links(conn, tenant_id=tenant, campaign_id=campaign)

        return self._links.get((tenant, campaign), ask, keep=bool)  # it may begin at any moment

    def webhook(self, tenant: str, transport: str) -> Webhook | None:
        """The webhook under these slugs; None where there is none or its transport has no secret.

        Raises: StoreUnavailable; also when the secret cannot be read, which somebody will mend.
        """

        def ask() -> Webhook | None:
            with self._pool.transaction() as conn:
                found = ingress.webhook(conn, tenant=tenant, transport=transport)
            if found is None:
                return None
            try:
                return Webhook(tenant_id=found[0], transport_id=found[1], secret=self._secret(found[2]))
            except MailmillError as error:
                logger.error("a webhook's secret cannot be read", extra={"tenant": tenant, "transport": transport})
                raise StoreUnavailable("the webhook's secret cannot be read") from error

        return self._webhooks.get((tenant, transport), ask)

    def tenant_name(self, tenant: int) -> str | None:
        """Raises: StoreUnavailable."""

        def ask() -> str | None:
            with self._pool.transaction(tenant_id=tenant) as conn:
                return ingress.tenant_name(conn, tenant_id=tenant)

        return self._names.get(tenant, ask)
