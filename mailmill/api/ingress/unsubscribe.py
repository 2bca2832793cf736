"""One-click unsubscribe. Answered with success only once it is durable, whatever is down.

Source: RFC 8058 (one-click), RFC 2369 (List-Unsubscribe).
"""

from __future__ import annotations

import asyncio
import logging
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request
from starlette.responses import Response

from mailmill.api.ingress import pages
from mailmill.api.ingress.services import BodyTooLarge, Services, body, services
from mailmill.errors import MailmillError, StoreUnavailable, TransientError
from mailmill.io.postgres import ingress
from mailmill.pipelines.listen import arrivals
from mailmill.pipelines.listen.arrivals import Event
from mailmill.pipelines.listen.events import event_id
from mailmill.pipelines.send.tokens import NOBODY, Token

logger = logging.getLogger(__name__)
MAX_BODY_BYTES = 16_384


async def ask(request: Request) -> Response:
    """The page that asks. It changes nothing: scanners follow every link."""
    live = services(request)
    try:
        token = await live.token(request.path_params["token"], "unsubscribe")
    except StoreUnavailable:
        return pages.not_now()
    if token is None:
        return pages.unknown()
    try:
        name = await live.in_thread(lambda: live.directory.tenant_name(token.tenant))
    except StoreUnavailable:
        name = None
    return pages.confirm(name)


async def one_click(request: Request) -> Response:
    """No redirect, no cookie, no login; asking again changes nothing and is answered the same."""
    live = services(request)
    try:
        token = await live.token(request.path_params["token"], "unsubscribe")
        if token is None:
            return pages.unknown()
        content = await body(request, MAX_BODY_BYTES)
        if not is_one_click(request.headers.get("content-type", ""), content):
            return pages.not_understood()
        if token.message == NOBODY:
            return pages.tried()
        return pages.done() if await _unsubscribe(live, token) else pages.not_now()
    except (BodyTooLarge, TimeoutError):
        return pages.not_understood()
    except StoreUnavailable:
        return pages.not_now()


def is_one_click(content_type: str, content: bytes) -> bool:
    """Whether a form says List-Unsubscribe=One-Click, urlencoded or multipart (RFC 8058 section 3.2 allows both)."""
    if content_type.lower().startswith("multipart/"):
        head = b"Content-Type: " + content_type.encode("ascii", "replace") + b"\r\n\r\n"
        parts = BytesParser(policy=HTTP).parsebytes(head + content)
        fields = [part for part in parts.walk() if not part.is_multipart()]
        return any(
            part.get_param("name", header="content-disposition") == "List-Unsubscribe"
            and str(part.get_payload()).strip() == "One-Click"
            for part in fields
        )
    return ("List-Unsubscribe", "One-Click") in parse_qsl(content.decode("utf-8", "replace"))


async def _unsubscribe(live: Services, token: Token) -> bool:
    """Write suppression and event; what neither store takes goes to the spool. Out: whether it is durable anywhere."""
    event = arrivals.unsubscription(token, at_ms=live.now_ms())
    suppressed, logged = await asyncio.gather(
        live.in_thread(lambda: _suppress(live, token)), live.append([event]), return_exceptions=True
    )
    for failure in (suppressed, logged):
        if isinstance(failure, BaseException) and not isinstance(failure, MailmillError):
            logger.error("an unsubscribe met a surprise", exc_info=failure)
    if not isinstance(logged, BaseException):
        return True  # from the log the listener suppresses too
    try:
        await live.in_thread(lambda: live.spool.keep(event_id("unsubscribed", token.message), event[1]))
    except StoreUnavailable as error:
        logger.error("an unsubscribe could not be spooled", extra={"error": str(error)})
        return suppressed is True  # the person is heard; what statistics miss, this log line says
    return True


def _suppress(live: Services, token: Token) -> bool:
    with live.pool.transaction(tenant_id=token.tenant) as conn:
        return ingress.unsubscribe(conn, token)


def replay(live: Services, events: list[bytes]) -> None:
    """Give spooled unsubscribes to the stores. The event log has to take them; the suppression follows from it.

    Raises: StoreUnavailable: they stay in the spool.
    """
    pairs: list[Event] = []
    for event in events:
        fields = orjson.loads(event)
        token = Token(fields["tenant"], fields["campaign"], fields["message"])
        pairs.append((token.message, event))
        try:
            _suppress(live, token)
        except TransientError:
            continue
    try:
        live.appender.submit(pairs).result(timeout=30.0)
    except TimeoutError as error:
        raise StoreUnavailable("the event log does not answer in time") from error
