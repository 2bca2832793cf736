"""What the sandbox's command needs to know of an installation. The caller owns the transaction."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from mailmill.io.postgres.sql import statements

SQL = statements("sandbox")


@dataclass(frozen=True, slots=True)
class SandboxTransport:
    """A transport of type sandbox that takes webhooks; `secret` is the reference, not the value."""

    tenant: str
    transport: str
    secret: str
    domains: tuple[str, ...]


def transports(conn: psycopg.Connection) -> list[SandboxTransport]:
    """Every tenant's, by slug."""
    return [SandboxTransport(one[0], one[1], one[2], tuple(one[3])) for one in conn.execute(SQL["webhooks"])]
