"""The generic webhook: providers report what became of messages. Success means the events are durable."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mailmill.api.ingress.directory import Webhook
from mailmill.api.ingress.services import KEYS_MIN_AGE_S, BodyTooLarge, Services, body, services
from mailmill.errors import StoreUnavailable
from mailmill.pipelines.configuration.words import SLUG
from mailmill.pipelines.listen import webhooks
from mailmill.pipelines.listen.webhooks import MalformedReport, Report
from mailmill.pipelines.send.tokens import NOBODY, Token

logger = logging.getLogger(__name__)
RETRY_AFTER_S = 5


@dataclass(slots=True)
class WebhookCounts:
    """Since this process started; health shows them."""

    accepted: int = 0
    orphans: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # by code


class Refused(Exception):
    """The request is answered with this status and nothing of it is taken."""

    def __init__(self, status: int, code: str, message: str, detail: object = None) -> None:
        super().__init__(message)
        self.status, self.code, self.detail = status, code, detail


async def receive(request: Request) -> Response:
    """POST /webhooks/{tenant}/{transport}."""
    live, counts = services(request), request.app.state.webhook_counts
    try:
        accepted, orphans = await _receive(request, live)
    except Refused as refusal:
        counts.refused[refusal.code] = counts.refused.get(refusal.code, 0) + 1
        return _answer(refusal)
    counts.accepted += accepted
    counts.orphans += orphans
    return JSONResponse({"accepted": accepted, "orphans": orphans}, headers={"Cache-Control": "no-store"})


def _answer(refusal: Refused) -> JSONResponse:
    headers = {"Cache-Control": "no-store"}
    if refusal.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    error = {"code": refusal.code, "message": str(refusal), "detail": refusal.detail}
    return JSONResponse({"error": error}, refusal.status, headers)


async def _receive(request: Request, live: Services) -> tuple[int, int]:
    """Out: how many events were taken, and how many were about no message of this tenant."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "unsupported_media_type", "send application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "unsupported_encoding", "send the body uncompressed")
    try:
        content = await body(request, webhooks.MAX_BODY_BYTES)
        webhook = await _webhook(request, live)
        _check_signature(request, live, webhook, content)
        reports = webhooks.parse(content)
        return await _append(live, webhook, await _tokens(live, reports))
    except BodyTooLarge:
        raise Refused(413, "too_large", f"a body has at most {webhooks.MAX_BODY_BYTES} bytes") from None
    except TimeoutError:
        raise Refused(408, "timeout", "the body did not come in time") from None
    except MalformedReport as error:
        where = {"index": error.index, "field": error.field}
        raise Refused(422, "malformed_event", str(error), where) from None
    except StoreUnavailable as error:
        raise Refused(503, "unavailable", "events cannot be taken at the moment; send them again") from error


async def _webhook(request: Request, live: Services) -> Webhook:
    tenant, transport = request.path_params["tenant"], request.path_params["transport"]
    found = None
    if SLUG.fullmatch(tenant) and SLUG.fullmatch(transport):  # nothing else is asked for, or remembered
        found = await live.in_thread(lambda: live.directory.webhook(tenant, transport))
    if found is None:
        raise Refused(404, "not_found", "there is no such webhook")
    return found


async def _tokens(live: Services, reports: list[Report]) -> list[tuple[Report, Token | None]]:
    """Each report with whom it is about, None when nobody of ours; a key may be newer than what is remembered."""
    for again in (False, True):
        keys = live.keys.keys("return_path")
        known = [(report, webhooks.token_of(report.message, keys)) for report in reports]
        if again or all(token for _, token in known) or not (live.keys.older_than(KEYS_MIN_AGE_S) or not keys):
            break
        await live.in_thread(live.keys.refresh)
    return known


def _check_signature(request: Request, live: Services, webhook: Webhook, content: bytes) -> None:
    header = request.headers.get("x-mailmill-signature")
    if not webhooks.verified(header, webhook.secret, content, now_s=live.now().timestamp()):
        raise Refused(401, "bad_signature", "X-Mailmill-Signature is missing, wrong or older than five minutes")


async def _append(live: Services, webhook: Webhook, known: list[tuple[Report, Token | None]]) -> tuple[int, int]:
    own = [(report, token) for report, token in known if token is not None and token.tenant == webhook.tenant_id]
    orphans = len(known) - len(own)
    if orphans:
        extra = {"tenant_id": webhook.tenant_id, "transport_id": webhook.transport_id, "events": orphans}
        logger.warning("a webhook reports about messages that are not this tenant's", extra=extra)
    own = [(report, token) for report, token in own if token.message != NOBODY]
    if not own:
        return 0, orphans
    campaigns = {token.campaign for report, token in own if isinstance(report.link, str)}
    links = {one: await live.in_thread(partial(live.directory.links, webhook.tenant_id, one)) for one in campaigns}
    await live.append(webhooks.events(own, transport=webhook.transport_id, now_ms=live.now_ms(), links=links))
    return len(own), orphans
