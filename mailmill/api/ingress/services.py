"""What every request of the ingress works with, and how it waits for it: never longer than it has promised."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from mailmill.api.ingress.appender import Appender
from mailmill.api.ingress.directory import Directory, KeyRing
from mailmill.api.ingress.spool import Spool
from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.io.postgres.ingress_pool import IngressPool
from mailmill.pipelines.listen.arrivals import Event
from mailmill.pipelines.send import tokens
from mailmill.pipelines.send.tokens import Token

logger = logging.getLogger(__name__)
T = TypeVar("T")
STORE_TIMEOUT_S = 5.0
BODY_TIMEOUT_S = 10.0
KEYS_MAX_AGE_S = 60.0
KEYS_MIN_AGE_S = 1.0  # forged tokens ask for the keys no more often


class BodyTooLarge(Exception):
    """More bytes than this address takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The live parts, shared by all requests of this process."""

    pool: IngressPool
    keys: KeyRing
    directory: Directory
    appender: Appender
    spool: Spool
    threads: ThreadPoolExecutor
    now: Callable[[], datetime]

    def now_ms(self) -> int:
        return int(self.now().timestamp() * 1000)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run what may block.

        Raises: StoreUnavailable when it takes too long (it goes on in its thread, nobody waits any more).
        """
        try:
            return await asyncio.wait_for(
                asyncio.get_running_loop().run_in_executor(self.threads, work), STORE_TIMEOUT_S
            )
        except TimeoutError as error:
            raise StoreUnavailable("a store does not answer in time") from error

    async def append(self, events: Sequence[Event]) -> None:
        """Append and wait until it is durable.

        Raises: StoreUnavailable when that is not certain; it may be on the log all the same, which ids make harmless.
        """
        try:
            await asyncio.wait_for(asyncio.wrap_future(self.appender.submit(events)), STORE_TIMEOUT_S)
        except TimeoutError as error:
            raise StoreUnavailable("the event log does not answer in time") from error

    async def token(self, text: str, purpose: tokens.Purpose) -> Token | None:
        """What a token names; None for one that is not ours.

        Raises: StoreUnavailable when the keys could not be loaded yet.
        """
        found = self.keys.verify(text, purpose)
        if found is None and self.keys.older_than(KEYS_MIN_AGE_S):
            try:
                await self.in_thread(self.keys.refresh)
            except StoreUnavailable:
                if not self.keys.loaded:
                    raise
            found = self.keys.verify(text, purpose)
        elif self.keys.older_than(KEYS_MAX_AGE_S):
            self.threads.submit(self.refresh_quietly)
        if not self.keys.loaded:
            raise StoreUnavailable("the signing keys could not be loaded yet")
        return found

    def refresh_quietly(self) -> None:
        """Load the keys; while that fails the known ones stay."""
        try:
            self.keys.refresh()
        except MailmillError as error:
            logger.warning("signing keys cannot be loaded", extra={"error": str(error)})


def services(request: Request) -> Services:
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


async def body(request: Request, limit: int) -> bytes:
    """The raw body.

    Raises: BodyTooLarge as soon as it is, TimeoutError when it does not come, or not to its end.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLarge
    parts, size = [], 0
    async with asyncio.timeout(BODY_TIMEOUT_S):
        try:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise BodyTooLarge
                parts.append(part)
        except ClientDisconnect as gone:
            raise TimeoutError from gone
    return b"".join(parts)
