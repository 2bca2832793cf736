"""Scraper-Pro and Backlink Engine: HTTP JSON APIs with a key, pages and `updated_since` (docs/sources.md)."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson

from mailmill.errors import Misconfigured, SourceUnavailable
from mailmill.io.sources.manual import table_of
from mailmill.pipelines.ingest.ports import Cursor, RawBatch, Refusal

_CONTACT = ("email", "name", "phone", "page_url", "domain", "language", "category", "country", "found_at")
RESOURCES: dict[str, tuple[str, tuple[str, ...]]] = {  # type of source -> path, documented fields
    "scraper_pro": ("/v1/contacts", _CONTACT),
    "backlink_engine": (
        "/v1/backlinks",
        (*_CONTACT, "referring_domain", "target_url", "anchor", "authority"),
    ),
}
_CURSOR_GONE = 410  # the page cursor is too old; the walk begins again
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
    max_body: int = 64 * 2**20  # bytes of a page, unpacked
    rows_per_batch: int = 20_000  # pages are put together to batches of about so many rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    items: list[dict[str, Any]]
    next_cursor: str | None
    as_of: str


class HttpFeed:
    """Walks the pages from where the last import stopped."""

    def __init__(self, config: HttpSource, *, full: bool = False) -> None:
        self._config, self._full = config, full
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
        state: Cursor = {"updated_since": None, "page": None, "as_of": None} | (cursor or {})
        items: list[dict[str, Any]] = []
        headers = {"X-API-Key": self._config.key, "Accept": "application/json", "User-Agent": "mailmill"}
        with httpx.Client(headers=headers, timeout=self._config.timeout_s, follow_redirects=False) as client:
            while True:
                page = self._page(client, state)
                if page is None:  # begin the walk again; what comes twice is recognised
                    state |= {"page": None, "as_of": None}
                    continue
                if page.next_cursor is not None and page.next_cursor == state["page"]:
                    raise self._wrong("the answer repeats its own cursor")
                items += page.items
                state |= {"page": page.next_cursor, "as_of": state["as_of"] or page.as_of}
                done = page.next_cursor is None
                if done:
                    state = {"updated_since": state["as_of"], "page": None, "as_of": None}
                if items and (done or len(items) >= self._config.rows_per_batch):
                    yield self._batch(items, dict(state))
                    items = []
                if done:
                    return

    def _batch(self, items: list[dict[str, Any]], cursor: Cursor) -> RawBatch:
        table = table_of([{name: _text(value) for name, value in item.items()} for item in items])
        missing = [name for name in self._fields if name not in table.columns]
        return RawBatch(
            key=hashlib.sha256(orjson.dumps(items, option=orjson.OPT_SORT_KEYS)).hexdigest(),
            origin=self._endpoint,
            seen_at=datetime.now(UTC),
            table=table,
            cursor=cursor,
            notes=(f"the API's answer lacks: {', '.join(missing)}",) if missing else (),
        )

    def _page(self, client: httpx.Client, state: Mapping[str, Any]) -> _Page | None:
        """One page, tried until it comes or the attempts are used up. None: its cursor is gone."""
        query = {"limit": self._config.page_size, "updated_since": state["updated_since"], "cursor": state["page"]}
        parameters = {name: value for name, value in query.items() if value is not None}
        for attempt in range(1, self._config.attempts + 1):
            wait = self._config.backoff_s * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            attempts, remedy = self._config.attempts, ""
            try:
                status, headers, body = self._get(client, parameters)
            except httpx.TransportError as error:
                problem = self._told(error)
                if _has_cause(error, ConnectionRefusedError):
                    attempts, remedy = min(attempts, _REFUSED_ATTEMPTS), "Start that service, or correct `url`. "
                    wait *= 2
            else:
                if status == _CURSOR_GONE and state["page"] is not None:
                    return None
                self._refuse(status)
                if status == 200:
                    page = self._read(body)
                    if page is not None:
                        return page
                    problem = "the answer is no JSON"
                else:
                    problem = f"HTTP {status}"
                    wait = max(wait, _retry_after_s(headers))
            if attempt >= attempts or wait > self._config.max_wait_s:
                asked = f", and asks to wait {wait:.0f} s" if wait > self._config.max_wait_s else ""
                raise SourceUnavailable(
                    f"{self._place}: {problem}{asked} (tried {attempt} times)\n"
                    f"  {remedy}What had come before is kept; the next import goes on from there.",
                    retry_after_s=wait,
                )
            self._progress(f"{self._place}: {problem}, again in {wait:.1f} s")
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _told(self, error: httpx.TransportError) -> str:
        """A failed connection in our words."""
        url = httpx.URL(self._endpoint)
        place = f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
        if _has_cause(error, ConnectionRefusedError):
            return f"nobody listens at {place}"
        if _has_cause(error, socket.gaierror):
            return f"there is no host {url.host}, or names cannot be looked up"
        if isinstance(error, httpx.TimeoutException):
            return f"no answer from {place} within {self._config.timeout_s:g} s"
        return f"the connection to {place} failed ({type(error).__name__})"

    def _get(self, client: httpx.Client, parameters: Mapping[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body; the body is read no further than its limits of size and time."""
        deadline = time.monotonic() + self._config.timeout_s
        with client.stream("GET", self._endpoint, params=parameters) as response:
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if len(body) > self._config.max_body:
                    raise self._wrong(
                        f"a page is larger than {self._config.max_body >> 20} MiB", "Lower `page_size` of the source."
                    )
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the page did not arrive in time")
            return response.status_code, response.headers, bytes(body)

    def _refuse(self, status: int) -> None:
        """Raise what a person has to correct: the key, the URL, the request."""
        if status in (401, 403):
            raise Misconfigured(
                "the API refuses the key", place=self._place, remedy="Check `api_key` of the source and its secret."
            )
        if status != 429 and status < 500 and status != 200:
            raise self._wrong(f"the API answers HTTP {status}", "Check `url` of the source.")

    def _read(self, body: bytes) -> _Page | None:
        """The page; None when the body is no JSON (cut off on its way, or a proxy's error page: worth a retry)."""
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        items = answer.get("items") if isinstance(answer, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self._wrong("the answer has no list of objects called `items`")
        following, as_of = answer.get("next_cursor"), answer.get("as_of")
        if not isinstance(as_of, str) or not isinstance(following, str | None):
            raise self._wrong("the answer lacks `as_of`, or its `next_cursor` is no text")
        return _Page(items=items, next_cursor=following, as_of=as_of)

    def _wrong(self, message: str, remedy: str = "docs/sources.md says what it has to answer.") -> Misconfigured:
        return Misconfigured(message, place=self._place, remedy=remedy)


def _has_cause(error: BaseException, kind: type[OSError]) -> bool:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _retry_after_s(headers: httpx.Headers) -> float:
    """Seconds of a Retry-After header in either of its forms; 0 without one. Source: RFC 9110 10.2.3."""
    text = headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _text(value: Any) -> str | None:
    """A JSON value as a cell: lists of words joined by semicolons, what is nested as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ";".join(value)
    return orjson.dumps(value).decode()
