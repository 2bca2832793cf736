"""Who may read what: a bearer key, the tenant in the path, a limit on how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import psycopg
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from mailmill.api.stats.errors import Refusal
from mailmill.api.stats.limits import RateLimit
from mailmill.io.postgres import api_keys, read
from mailmill.io.postgres.read_pool import ReadPool
from mailmill.pipelines.read.answers import Tenant

_bearer = HTTPBearer(
    auto_error=False,
    description="An API key, `mm_…`, made by `mailmill key create --tenant T` (or `--operator NAME`: every tenant).",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What every request passes. `failures` counts wrong keys by client, so that a good key never suffers from them."""

    pool: ReadPool
    requests: RateLimit
    failures: RateLimit
    clock: Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An open transaction that sees one tenant."""

    conn: psycopg.Connection
    tenant: Tenant
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One request before anything is known of it. The key is in no repr, so in no log."""

    gate: Gate
    client: str
    key: str | None

    def __repr__(self) -> str:
        return f"Caller({self.client})"

    @contextmanager
    def reading(self, tenant_id: str) -> Iterator[Reading]:
        """A transaction bound to this tenant, if the key may see it.

        It is opened and closed in the thread that answers: a connection never waits for a free thread.

        Raises: Refusal (401, 403, 404, 429), StoreUnavailable.
        """
        with self.gate.pool.transaction() as conn:
            holder = self._holder(conn)
            tenant = read.tenant(conn, tenant_id, only=holder.tenant_id)
            if tenant is None and holder.tenant_id is not None:
                # the same answer whether or not there is such a tenant
                raise Refusal(403, "forbidden", "this key is not for this tenant")
            if tenant is None:
                raise Refusal(404, "not_found", "there is no such tenant")
            yield Reading(conn=conn, tenant=tenant, now=self.gate.clock())

    def _holder(self, conn: psycopg.Connection) -> api_keys.KeyHolder:
        if self.key is None:
            raise Refusal(401, "unauthorized", "send the header 'Authorization: Bearer mm_…'")
        holder = api_keys.holder(conn, self.key)
        if holder is None:
            self._limited(self.gate.failures.take(self.client))
            raise Refusal(401, "unauthorized", "this key is not valid")
        self._limited(self.gate.requests.take(holder.key_id))
        return holder

    @staticmethod
    def _limited(wait_s: int | None) -> None:
        if wait_s is not None:
            raise Refusal(429, "too_many_requests", f"come back in {wait_s} s", retry_after_s=wait_s)


def _caller(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Caller:
    gate: Gate = request.app.state.gate
    return Caller(
        gate=gate,
        client=request.client.host if request.client else "",
        key=credentials.credentials if credentials else None,
    )


FromCaller = Annotated[Caller, Depends(_caller)]
