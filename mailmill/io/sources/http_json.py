"""Scraper-Pro and Backlink Engine: HTTP JSON APIs with a key, pages and `updated_since` (docs/sources.md).

What the API has deleted it says by `deleted: true` or a `deleted_at`; such an item becomes a row that is rejected for
the reason `withdrawn`. What a walk from the beginning shows no more is seen by comparing: the cursor says which batches
are of such a walk (`full`: open, and done with the last one).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from mailmill.errors import Misconfigured, SourceUnavailable
from mailmill.io.sources import connections, http_answers
from mailmill.io.sources.connections import Refused
from mailmill.io.sources.http_answers import Page
from mailmill.io.sources.http_items import content_key, items_table
from mailmill.pipelines.ingest.columns import MOST
from mailmill.pipelines.ingest.ports import Cursor, RawBatch, Refusal
from mailmill.pipelines.ingest.raw import few, usual

_CONTACT = ("email", "name", "phone", "page_url", "domain", "language", "category", "country", "found_at")
RESOURCES: dict[str, tuple[str, tuple[str, ...]]] = {  # type of source -> path, documented fields
    "scraper_pro": ("/v1/contacts", _CONTACT),
    "backlink_engine": (
        "/v1/backlinks",
        (*_CONTACT, "referring_domain", "target_url", "anchor", "authority"),
    ),
}
_CURSOR_GONE = 410  # the page cursor is too old; the walk begins again
_BEGINNINGS = 4  # of a walk in one import, the first one too
_LATER = (408, 425, 429)  # the request is not wrong, only too slow, too early or one too many
_REFUSED_ATTEMPTS = 3  # where nobody listens; with the default pauses that takes three seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSource:
    """One API. Waits grow from `backoff_s`, doubled each time, and none is longer than `max_wait_s`."""

    url: str
    type: str
    key: str = field(repr=False)
    name: str = ""  # tenant/source, for whoever reads what went wrong
    page_size: int = 500
    timeout_s: float = 30.0  # for a page to arrive whole
    attempts: int = 6  # at one page
    backoff_s: float = 0.5
    max_wait_s: float = 60.0
    max_waits_s: float = 900.0  # all of one walk's waits together
    private: tuple[str, ...] = ()  # hosts and networks that may be reached although they are private
    max_body: int = 64 * 2**20  # bytes of a page, unpacked
    rows_per_batch: int = 20_000  # pages are put together to batches of about so many rows


class HttpFeed:
    """Walks the pages from where the last import stopped."""

    def __init__(self, config: HttpSource, *, full: bool = False) -> None:
        self._config, self._full = config, full
        self._waited_s = self._free_at = 0.0  # of the monotonic clock: before then its rate limit is used up
        path, self._fields = RESOURCES[config.type]
        self._endpoint = config.url.rstrip("/") + path
        self._place = f"{config.name} ({self._endpoint})" if config.name else self._endpoint
        self._progress: Callable[[str], None] = lambda message: None

    def report_to(self, progress: Callable[[str], None]) -> None:
        """Tell each retry and what it waits for."""
        self._progress = progress

    def batches(self, cursor: Cursor | None) -> Iterator[RawBatch | Refusal]:
        """Batches of whole pages, each with the cursor behind its last page. Nothing new: no batch.

        Raises: SourceUnavailable when the API does not answer in time or asks to wait longer than an import waits,
                Misconfigured when it refuses the key or answers something else than docs/sources.md says.
        """
        key = self._config.key
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise Misconfigured(
                "the API's key holds what no header can", place=self._place,
                remedy="Look for a space, a line break or a byte order mark at an end of what `api_key` names.",
            )  # fmt: skip
        state = self._beginning(cursor or {})
        stored, items, begun = state, list[dict[str, Any]](), 1
        asked = set[int]()  # hashes of cursors: some 60 bytes a page
        headers = {"X-API-Key": self._config.key, "Accept": "application/json", "User-Agent": "mailmill"}
        transport = connections.transport(self._config.private)
        with httpx.Client(
            headers=headers, timeout=self._config.timeout_s, follow_redirects=False, transport=transport
        ) as client:
            while True:
                try:
                    page = self._page(client, state)
                except SourceUnavailable:  # what came until here is kept, or a few pages an hour were no progress
                    if state != stored:
                        yield self._batch(items, state)
                    raise
                if page is None:
                    self._begin_again(begun)
                    state, items, begun = {**state, "page": None, "as_of": None}, [], begun + 1
                    asked.clear()
                    continue
                asked.add(hash(state["page"]))
                if page.next_cursor is not None and hash(page.next_cursor) in asked:
                    raise http_answers.wrong(
                        "the answer repeats a cursor of this walk, which has no end so", self._place
                    )
                if page.items and len(items) >= self._config.rows_per_batch:
                    stored = state
                    yield self._batch(items, state)
                    items = []
                items += page.items
                state = {**state, "page": page.next_cursor, "as_of": state["as_of"] or page.as_of}
                if page.next_cursor is None:
                    if items or stored["page"] is not None or state["full"]:  # where a walk ends is stored in any case
                        yield self._batch(items, self._ended(state))
                    return

    def _begin_again(self, begun: int) -> None:
        """Wait a little before a walk whose cursor is gone; one that goes on losing it has to end."""
        wait = self._config.backoff_s * 2**begun
        if begun >= _BEGINNINGS or not self._may_wait(wait):
            raise self._unavailable(f"HTTP {_CURSOR_GONE} for the cursor it gave (begun {begun} times)", "", wait)
        self._progress(f"{self._place}: the cursor is gone, from its beginning again in {wait:.1f} s")
        self._sleep(wait)

    def _beginning(self, cursor: Cursor) -> Cursor:
        """Where the walk goes on. A walk from the beginning that was cut off goes on as one."""
        state: Cursor = {"updated_since": None, "page": None, "as_of": None, "full": None} | cursor
        if state["full"] == "open":
            return state
        if self._full:
            return {"updated_since": None, "page": None, "as_of": None, "full": "open"}
        return {**state, "full": None}

    def _ended(self, state: Cursor) -> Cursor:
        return {"updated_since": state["as_of"], "page": None, "as_of": None, "full": state["full"] and "done"}

    def _batch(self, items: list[dict[str, Any]], cursor: Cursor) -> RawBatch:
        names = {name for item in items for name in item}
        if len(names) > MOST:  # ids in place of names, probably; each would be a column, and a custom field
            raise http_answers.wrong(f"the items have {len(names):,} different fields", self._place)
        table = items_table(items)
        little = few(table.frame)
        missing = [name for name in self._fields if not any(name in item for item in items)]
        notes = (f"the API's answer lacks: {', '.join(missing)}",) if missing and not little else ()
        if not items:
            notes = ("the API's answer has no item",)
        return RawBatch(
            key=content_key(items),
            origin=self._endpoint,
            seen_at=datetime.now(UTC),
            table=table,
            cursor=cursor,
            notes=notes,
            few=little,
            usual=usual(table.frame),
        )

    def _page(self, client: httpx.Client, state: Mapping[str, Any]) -> Page | None:
        """One page, tried until it comes or the attempts are used up. None: its cursor is gone."""
        query = {"limit": self._config.page_size, "updated_since": state["updated_since"], "cursor": state["page"]}
        parameters = {name: value for name, value in query.items() if value is not None}
        self._pause(self._free_at - time.monotonic())
        for attempt in range(1, self._config.attempts + 1):
            wait = self._config.backoff_s * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            attempts, remedy = self._config.attempts, ""
            try:
                status, headers, body = self._get(client, parameters)
            except Refused as error:
                raise Misconfigured(str(error), place=self._place, remedy=error.remedy) from None
            except httpx.RequestError as error:
                problem = connections.told(error, self._endpoint, self._config.timeout_s)
                if connections.has_cause(error, ConnectionRefusedError):
                    attempts, remedy = min(attempts, _REFUSED_ATTEMPTS), "Start that service, or correct `url`. "
                    wait *= 2
            else:
                if status == _CURSOR_GONE and state["page"] is not None:
                    return None
                self._refuse(status)
                if status == 200:
                    page = http_answers.page(body, place=self._place)
                    if page is not None:
                        self._free_at = time.monotonic() + connections.used_up_s(headers)
                        return page
                    problem = "the answer is no JSON"
                else:
                    problem = f"HTTP {status}"
                    wait = max(wait, connections.retry_after_s(headers), connections.used_up_s(headers))
            if attempt >= attempts or not self._may_wait(wait):
                asked = "" if self._may_wait(wait) else f", and asks to wait {wait:.0f} s"
                raise self._unavailable(f"{problem}{asked} (tried {attempt} times)", remedy, wait)
            self._progress(f"{self._place}: {problem}, again in {wait:.1f} s")
            self._sleep(wait)
        raise AssertionError("unreachable")

    def _may_wait(self, wait_s: float) -> bool:
        return wait_s <= self._config.max_wait_s and self._waited_s + wait_s <= self._config.max_waits_s

    def _pause(self, wait_s: float) -> None:
        """Wait for the next window of the API's rate limit; a long one ends the import here."""
        if wait_s <= 0:
            return
        if not self._may_wait(wait_s):
            raise self._unavailable(f"its rate limit is used up for {wait_s:.0f} s", "", wait_s)
        self._progress(f"{self._place}: its rate limit is used up, on in {wait_s:.1f} s")
        self._sleep(wait_s)

    def _sleep(self, wait_s: float) -> None:
        self._waited_s += wait_s
        time.sleep(wait_s)

    def _unavailable(self, problem: str, remedy: str, wait_s: float) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self._place}: {problem}\n  {remedy}What had come before is kept; the next import goes on from there.",
            retry_after_s=wait_s,
        )

    def _get(self, client: httpx.Client, parameters: Mapping[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body; the body is read no further than its limits of size and time."""
        deadline = time.monotonic() + self._config.timeout_s
        with client.stream("GET", self._endpoint, params=parameters) as response:
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if len(body) > self._config.max_body:
                    large = f"a page is larger than {self._config.max_body >> 20} MiB"
                    raise http_answers.wrong(large, self._place, "Lower `page_size` of the source.")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the page did not arrive in time")
            return response.status_code, response.headers, bytes(body)

    def _refuse(self, status: int) -> None:
        """Raise what a person has to correct: the key, the URL, the request."""
        if status in (401, 403):
            raise Misconfigured(
                "the API refuses the key", place=self._place, remedy="Check `api_key` of the source and its secret."
            )
        if status not in _LATER and status < 500 and status != 200:
            raise http_answers.wrong(f"the API answers HTTP {status}", self._place, "Check `url` of the source.")
