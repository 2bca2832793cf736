"""Pixel and click. Both answer at once; what they count goes to the appender's memory first."""

from __future__ import annotations

import logging
from base64 import b64decode
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from mailmill.api.ingress import pages
from mailmill.api.ingress.services import Services, services
from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.pipelines.listen import arrivals
from mailmill.pipelines.send.mime import ascii_host
from mailmill.pipelines.send.tokens import NOBODY, Token
from mailmill.pipelines.target.anchors import BAD

logger = logging.getLogger(__name__)
PIXEL = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
NOT_KEPT = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
_KEPT_IN_URL = ":/%#?=@[]!$&'()*+,;~"


async def pixel(request: Request) -> Response:
    """The same picture whatever the token is, so that tokens cannot be probed. HEAD counts nothing."""
    live = services(request)
    if request.method == "GET":
        try:
            token = await live.token(request.path_params["token"], "open")
        except MailmillError:
            token = None  # without keys nobody knows whose open this was; health says so
        if token is not None:
            _count(live, token, request)
    return Response(PIXEL, media_type="image/gif", headers=NOT_KEPT)


async def click(request: Request) -> Response:
    """To the link's stored target, and nowhere else. HEAD counts nothing."""
    live = services(request)
    try:
        token = await live.token(request.path_params["token"], "click")
        target = None if token is None else await _target(live, token)
    except StoreUnavailable:
        return pages.not_there()
    if token is None or target is None:
        return pages.unknown()
    if request.method == "GET":
        _count(live, token, request)
    return Response(status_code=302, headers={**NOT_KEPT, "Location": target})


def _count(live: Services, token: Token, request: Request) -> None:
    if token.message == NOBODY:
        return
    address = request.client.host if request.client else None
    agent = request.headers.get("user-agent")
    live.appender.offer([arrivals.visit(token, at_ms=live.now_ms(), user_agent=agent, address=address)])


async def _target(live: Services, token: Token) -> str | None:
    assert token.link is not None
    links = live.directory.known_links(token.tenant, token.campaign)
    if links is None:
        links = await live.in_thread(lambda: live.directory.links(token.tenant, token.campaign))
    return location(links[token.link]) if token.link < len(links) else None


def location(url: str) -> str | None:
    """The header's value for a stored URL; None for anything that does not lead to a web page."""
    if BAD.search(url):
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    if not parts.netloc.isascii():
        try:
            netloc = parts.netloc.lower().replace(host, ascii_host(host))
        except ValueError:
            return None
        url = parts._replace(netloc=netloc).geturl()
    return quote(url, safe=_KEPT_IN_URL)
