"""The stats API: an application that reads statistics and can write nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from mailmill.api.stats.access import Gate
from mailmill.api.stats.errors import RESPONSES, add_handlers
from mailmill.api.stats.limits import RateLimit
from mailmill.api.stats.routes import router
from mailmill.io.postgres.read_pool import ReadPool
from mailmill.pipelines.read.answers import Health

_ABOUT = """
Statistics of what mailmill sent and what became of it. Every answer comes from counters that are kept as events
arrive, so it costs the size of the answer, however long the history is.

**What counts as what.** Most kinds count distinct messages; `opened` and `clicked` count messages and events;
`deferred_attempts` counts attempts. `accepted` means a relay took the message; `delivered` that a report said so, which
not every relay gives. What mail programs and scanners open or click by themselves stands under `machine` and is in no
rate. Every rate shows its numerator and denominator.

**Keys.** `Authorization: Bearer mm_…`: a tenant's key sees this tenant, the operator's key sees every one.
"""


def create_app(
    pool: ReadPool,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    monotonic: Callable[[], float] = time.monotonic,
    requests_per_minute: float = 600,
    failures_per_minute: float = 30,
) -> FastAPI:
    """The application over `pool`, which it opens and closes.

    In: requests_per_minute of each key; failures_per_minute: wrong keys of each client.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with pool:
            yield

    app = FastAPI(
        title="mailmill statistics",
        version=version("mailmill"),
        description=_ABOUT,
        docs_url=None,  # FastAPI's own page loads from a CDN; ours is below
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        lifespan=lifespan,
    )
    app.state.gate = Gate(
        pool=pool,
        requests=RateLimit(
            per_minute=requests_per_minute, burst=max(1, int(requests_per_minute / 6)), monotonic=monotonic
        ),
        failures=RateLimit(
            per_minute=failures_per_minute, burst=max(1, int(failures_per_minute / 3)), monotonic=monotonic
        ),
        clock=clock,
    )
    add_handlers(app)
    app.middleware("http")(_not_stored)
    app.include_router(router)
    app.get("/health", responses={503: RESPONSES[503]}, tags=["health"], summary="Whether it can answer")(_health)
    _add_docs(app)
    return app


async def _not_stored(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Statistics are one tenant's: no proxy or browser keeps them."""
    response = await call_next(request)
    if not request.url.path.startswith("/docs"):
        response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _health(request: Request) -> Health:
    """Asks the database; 503 when it does not answer."""
    gate: Gate = request.app.state.gate
    with gate.pool.transaction() as conn:
        conn.execute("SELECT 1")
    return Health(status="ok", version=request.app.version)


def _add_docs(app: FastAPI) -> None:
    """Swagger UI from a package, so that the page needs nothing from the internet."""
    app.mount("/docs/static", StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs")

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}/docs/static/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/static/swagger-ui.css",
            swagger_favicon_url="data:,",
            swagger_ui_parameters={
                "tryItOutEnabled": True,
                "defaultModelsExpandDepth": 0,
                "persistAuthorization": False,
            },
        )

    @app.get("/", include_in_schema=False)
    def root(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")
