"""What happens to messages after they were taken, reported as real providers and people do: over public HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import hmac
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import count
from typing import Any

import httpx
import orjson

from mailmill.sandbox import letters
from mailmill.sandbox.letters import Letter
from mailmill.sandbox.log import Log
from mailmill.sandbox.rules import Effect, Rule, chance

PERSON = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.0"
MACHINE = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
VISITORS = 8  # at a time
BATCH = 500
EVERY_S = 0.1
LONGEST_PAUSE_S = 5.0
MAX_WAITING = 500_000
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
_TYPES = {"deliver": "delivered", "bounce_later": "bounced", "complain": "complained", "reply": "replied"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where reports about the mail of some envelope senders (globs) go, and the secret that signs them."""

    path: str  # tenant/transport
    secret: str = field(repr=False)
    senders: tuple[str, ...] = ("*",)

    def takes(self, sender: str) -> bool:
        return any(fnmatch(sender.lower(), pattern.lower()) for pattern in self.senders)


@dataclass(slots=True, kw_only=True)
class Report:
    """One thing that is going to happen."""

    do: str
    sender: str
    recipient: str
    message_id: str
    url: str | None = None
    agent: str = PERSON
    fields: dict[str, Any] | None = None
    attempts: int = 0


class Reporter:
    """Holds reports until they are due and makes each until the ingress has answered it."""

    def __init__(self, *, ingress: str | None, webhooks: Sequence[Webhook], log: Log) -> None:
        self._ingress, self._webhooks, self._log = ingress, webhooks, log
        self._due: list[tuple[float, int, Report]] = []
        self._number = count()
        self._visits: asyncio.Queue[Report] = asyncio.Queue()
        self._batches: dict[str, list[Report]] = defaultdict(list)
        self._posting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = 0
        self.dropped = 0

    def taken(self, sender: str, recipient: str, message_id: str, content: bytes, rule: Rule) -> None:
        """Plan what follows from a message that was taken."""
        letter: Letter | None = None
        for effect in rule.effects:
            if effect.do in _TYPES:
                report = self._told(effect, sender, recipient, message_id)
                self._plan(report, effect.delay_s(recipient))
                continue
            letter = letter or letters.read(content)
            for url in self._urls(effect, letter, recipient):
                agent = MACHINE if effect.machine else PERSON
                report = Report(
                    do=effect.do, sender=sender, recipient=recipient, message_id=message_id, url=url, agent=agent
                )
                self._plan(report, effect.delay_s(recipient))

    def _told(self, effect: Effect, sender: str, recipient: str, message_id: str) -> Report:
        id = hashlib.blake2b(f"{message_id}\x1f{recipient}\x1f{effect.do}".encode("utf-8", "replace"), digest_size=12)
        fields: dict[str, Any] = {"id": id.hexdigest(), "message": message_id, "type": _TYPES[effect.do]}
        if effect.do == "bounce_later":
            fields["code"], fields["enhanced"], fields["reply"] = effect.bounce()
        return Report(do=effect.do, sender=sender, recipient=recipient, message_id=message_id, fields=fields)

    def _urls(self, effect: Effect, letter: Letter, recipient: str) -> list[str]:
        if effect.do == "unsubscribe":
            return [letter.unsubscribe] if letter.unsubscribe else []
        if effect.do == "open":
            return list(letter.pictures) * effect.times
        if not letter.links:
            return []
        return [letter.links[int(chance(f"link {n}", recipient) * len(letter.links))] for n in range(effect.times)]

    def _plan(self, report: Report, delay_s: float) -> None:
        if self.waiting >= MAX_WAITING:
            self.dropped += 1
            self._log.write(event="dropped", do=report.do, message_id=report.message_id)
            return
        self.waiting += 1
        heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._number), report))

    async def run(self) -> None:
        """Make reports as they fall due, until cancelled."""
        limits = httpx.Limits(max_connections=VISITORS + 8)
        async with httpx.AsyncClient(timeout=30, limits=limits, trust_env=False) as client:
            self._start([self._visit_all(client) for _ in range(VISITORS)])
            try:
                while True:
                    self._release(client)
                    await asyncio.sleep(EVERY_S)
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, works: Sequence[Any]) -> None:
        for work in works:
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _release(self, client: httpx.AsyncClient) -> None:
        """Hand on what is due."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            report = heapq.heappop(self._due)[2]
            if report.url is not None:
                self._visits.put_nowait(report)
                continue
            webhook = next((one for one in self._webhooks if one.takes(report.sender)), None)
            if webhook is None or self._ingress is None:
                self._done(report, None)
            else:
                self._batches[webhook.path].append(report)
        for webhook in self._webhooks:
            if self._batches[webhook.path] and webhook.path not in self._posting:
                self._posting.add(webhook.path)
                self._start([self._post(client, webhook)])

    async def _post(self, client: httpx.AsyncClient, webhook: Webhook) -> None:
        """One batch of a webhook, as often as it takes."""
        batch = self._batches[webhook.path][:BATCH]
        del self._batches[webhook.path][:BATCH]
        at = datetime.now(UTC).isoformat()
        body = orjson.dumps([{**(report.fields or {}), "at": at} for report in batch])
        status: int | None = None
        for attempt in count():
            with suppress(httpx.HTTPError):
                signed = _signed(webhook.secret, body)
                url = f"{(self._ingress or '').rstrip('/')}/webhooks/{webhook.path}"
                status = (await client.post(url, content=body, headers=signed)).status_code
                if not _later(status):
                    break
            await asyncio.sleep(pause_s(attempt))
        for report in batch:
            report.attempts = attempt + 1
            self._done(report, status)
        self._posting.discard(webhook.path)

    async def _visit_all(self, client: httpx.AsyncClient) -> None:
        while True:
            report = await self._visits.get()
            url = letters.moved(report.url or "", self._ingress)
            if url is None:
                self._done(report, None)  # the sandbox does not leave this machine
                continue
            report.attempts += 1
            status = await self._visit(client, report, url)
            if status is None or _later(status):
                heapq.heappush(self._due, (time.monotonic() + pause_s(report.attempts), next(self._number), report))
            else:
                self._done(report, status)

    async def _visit(self, client: httpx.AsyncClient, report: Report, url: str) -> int | None:
        """One request. Out: the status; None when nobody answered."""
        headers = {"User-Agent": report.agent}
        try:
            if report.do == "unsubscribe":
                return (await client.post(url, data=ONE_CLICK, headers=headers)).status_code
            return (await client.get(url, headers=headers)).status_code
        except httpx.HTTPError:
            return None
        except (httpx.InvalidURL, ValueError):
            return 0

    def _done(self, report: Report, status: int | None) -> None:
        self.waiting -= 1
        self._log.write(
            event="report", do=report.do, recipient=report.recipient.encode("utf-8", "replace").decode(),
            message_id=report.message_id, status=status, attempts=report.attempts,
        )  # fmt: skip


def pause_s(attempt: int) -> float:
    """Seconds before the next attempt."""
    return min(LONGEST_PAUSE_S, 0.2 * float(2 ** min(attempt, 10)))


def _later(status: int) -> bool:
    """Whether an answer asks to come again."""
    return status >= 500 or status in (408, 429)


def _signed(secret: str, body: bytes) -> dict[str, str]:
    at = int(time.time())
    tag = hmac.digest(secret.encode(), b"%d." % at + body, hashlib.sha256).hex()
    return {"Content-Type": "application/json", "X-Mailmill-Signature": f"t={at},v1={tag}"}
