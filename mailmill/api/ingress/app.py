"""The ingress: pixel, click, unsubscribe and webhooks. What the whole world may reach."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mailmill.api.ingress import pages, tracking, unsubscribe, webhooks
from mailmill.api.ingress.appender import Appender
from mailmill.api.ingress.directory import Directory, KeyPurpose, KeyRing
from mailmill.api.ingress.services import Services, services
from mailmill.api.ingress.spool import Replayer, Spool
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.ingress_pool import IngressPool
from mailmill.pipelines.listen.ports import EventLog

THREADS = 16
MAX_REQUESTS = 1000  # at a time; further ones are answered 503 by the server

ROUTES = [
    Route("/o/{token:path}", tracking.pixel, methods=["GET"]),  # and HEAD, here and below
    Route("/c/{token}", tracking.click, methods=["GET"]),
    Route("/u/{token}", unsubscribe.ask, methods=["GET"]),
    Route("/u/{token}", unsubscribe.one_click, methods=["POST"]),
    Route("/webhooks/{tenant}/{transport}", webhooks.receive, methods=["POST"]),
]


def create_app(
    database: Database,
    log: EventLog,
    *,
    keys: Callable[[KeyPurpose], Mapping[int, bytes]],
    secret: Callable[[str], str],
    spool: Path,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    monotonic: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The application.

    In: keys gives the keys that verify, by purpose; secret what a reference of the YAML stands for; spool the folder
        for unsubscribes that no store takes.
    """
    pool = IngressPool(database, clock=monotonic)
    live = Services(
        pool=pool,
        keys=KeyRing(keys, clock=monotonic),
        directory=Directory(pool, secret, clock=monotonic),
        appender=Appender(log, clock=monotonic),
        spool=Spool(spool),
        threads=ThreadPoolExecutor(THREADS, thread_name_prefix="ingress"),
        now=now,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        replayer = Replayer(live.spool, lambda events: unsubscribe.replay(live, events))
        live.refresh_quietly()
        live.appender.start()
        replayer.start()
        yield
        replayer.close()
        live.appender.close()
        live.threads.shutdown(wait=True, cancel_futures=True)
        pool.close()

    app = FastAPI(title="mailmill ingress", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.services, app.state.webhook_counts = live, webhooks.WebhookCounts()
    app.add_exception_handler(psycopg.DataError, _no_value)
    app.add_exception_handler(404, _nowhere)
    app.router.routes.extend([*ROUTES, Route("/health", health, methods=["GET"])])
    return app


async def _no_value(_: Request, __: Exception) -> Response:
    """Text that no column of PostgreSQL can hold or compare, such as a NUL: the request's fault, not the store's."""
    error = {"code": "invalid_request", "message": "the request holds what cannot be asked for", "detail": None}
    return JSONResponse({"error": error}, 422, {"Cache-Control": "no-store"})


async def _nowhere(request: Request, _: Exception) -> Response:
    """Most often a person with a link that was cut; a program's request has the shape of a webhook's."""
    if request.url.path.startswith("/webhooks"):
        error = {"code": "not_found", "message": "there is no such webhook", "detail": None}
        return JSONResponse({"error": error}, 404, {"Cache-Control": "no-store"})
    return pages.unknown()


async def health(request: Request) -> Response:
    """200 while requests are answered: with every store down unsubscribes still are, so no balancer should leave."""
    live, counts = services(request), request.app.state.webhook_counts
    spooled = len(live.spool.names())
    well = live.keys.loaded and not live.appender.failing and not spooled
    facts = {
        "status": "ok" if well else "degraded",
        "keys_loaded": live.keys.loaded,
        "event_log_failing": live.appender.failing,
        "events_waiting": live.appender.waiting,
        "events_dropped": live.appender.dropped,
        "unsubscribes_spooled": spooled,
        "webhook_events": counts.accepted,
        "webhook_orphans": counts.orphans,
        "webhooks_refused": counts.refused,
    }
    return JSONResponse(facts, headers={"Cache-Control": "no-store"})


def serve(app: FastAPI, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished, what waits is appended.

    There is no access log: paths hold tokens.
    """
    uvicorn.run(
        app, host=host, port=port, access_log=False, log_level="warning", limit_concurrency=MAX_REQUESTS,
        timeout_graceful_shutdown=10, server_header=False, date_header=True,
    )  # fmt: skip
