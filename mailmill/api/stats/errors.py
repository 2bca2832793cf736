"""The one shape of every error of the stats API, whoever produces it."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.pipelines.read.answers import Error, ErrorBody

logger = logging.getLogger(__name__)

RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": Error, "description": "No key, or none that is valid."},
    403: {"model": Error, "description": "The key is another tenant's."},
    404: {"model": Error, "description": "No such tenant or campaign."},
    422: {"model": Error, "description": "A parameter is not what it should be; `detail` says which."},
    429: {"model": Error, "description": "Too many requests; `Retry-After` says when to come back."},
    500: {"model": Error, "description": "Our fault; the server's log has it."},
    503: {"model": Error, "description": "The database does not answer; `Retry-After` says when to come back."},
}


class Refusal(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = "Bearer"


def _answer(
    status: int, code: str, message: str, *, detail: object = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = Error(error=ErrorBody(code=code, message=message, detail=detail))
    return JSONResponse(body.model_dump(mode="json"), status, {"Cache-Control": "no-store", **(headers or {})})


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return _answer(error.status, error.code, error.message, headers=error.headers)


def _http(_: Request, error: Exception) -> JSONResponse:
    """What the framework refuses by itself: unknown paths, other methods."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    return _answer(status, code, str(error.detail), headers=dict(error.headers or {}))


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    detail = [{"place": ".".join(str(part) for part in item["loc"]), "message": item["msg"]} for item in error.errors()]
    return _answer(422, "invalid_parameter", "a parameter is not what it should be", detail=detail)


def _misconfigured(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Misconfigured)
    if error.place is None:  # of no parameter, so of the installation: no client can correct it
        logger.error("the installation has to be corrected", extra={"error": str(error)})
        return _ours(request, error)
    detail = [{"place": f"query.{error.place}", "message": error.remedy}]
    return _answer(422, "invalid_parameter", str(error).split("\n")[0], detail=detail)


def _no_value(_: Request, error: Exception) -> JSONResponse:
    """Text that no column of PostgreSQL can hold or compare, such as a NUL."""
    logger.warning("a request holds what PostgreSQL does not take", extra={"error": type(error).__name__})
    return _answer(422, "invalid_parameter", "a parameter is not what it should be")


def _unavailable(_: Request, error: Exception) -> JSONResponse:
    logger.warning("no answer from the database", extra={"error": str(error)})
    return _answer(503, "unavailable", "the database does not answer; try again", headers={"Retry-After": "2"})


def _ours(_: Request, __: Exception) -> JSONResponse:
    """The server logs the exception; its text may hold what is nobody else's business."""
    return _answer(500, "internal_error", "mailmill failed to answer; its log says why")


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Misconfigured, _misconfigured)
    app.add_exception_handler(StoreUnavailable, _unavailable)
    app.add_exception_handler(psycopg.DataError, _no_value)
    app.add_exception_handler(Exception, _ours)
