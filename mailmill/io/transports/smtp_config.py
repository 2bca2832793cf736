"""How to reach one SMTP relay: a TransportSpec with its secrets still references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailmill.pipelines.send.answers import Stage


def _nothing(reference: str) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpConfig:
    """Seconds are those of RFC 5321 section 4.5.3.2 unless the operator says otherwise.

    Secrets are resolved anew for each connection, so that a rotated password or an access token that another program
    keeps fresh in a file is taken without a restart.
    """

    host: str
    port: int
    tls: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)  # a reference, as `proxy` may be
    auth: str = "password"  # or xoauth2: `password` is an access token
    proxy: str | None = field(default=None, repr=False)  # socks5://host:port, or a reference to such a URL
    source_address: str | None = None
    hello: str | None = None  # the name this host says in EHLO
    dsn: bool = False
    messages_per_connection: int = 1000
    connect_timeout_s: float = 30.0
    timeout_s: float = 300.0
    data_timeout_s: float = 120.0
    final_dot_timeout_s: float = 600.0
    sandbox: bool = False
    secret: Callable[[str], str] = field(default=_nothing, repr=False)

    @staticmethod
    def of(kind: str, spec: Mapping[str, Any], secret: Callable[[str], str]) -> SmtpConfig:
        """In: spec as applied (TransportSpec); secret resolves env: and file: references."""
        sandbox = kind == "sandbox"  # on loopback, in the clear
        known = {name: spec[name] for name in SmtpConfig.__dataclass_fields__ if spec.get(name) is not None}
        known |= {"host": spec.get("host", "127.0.0.1"), "port": int(spec.get("port", 587)), "secret": secret}
        known["sandbox"] = sandbox
        return SmtpConfig(**{**known, "tls": "none" if sandbox else spec.get("tls", "required")})

    def patience_s(self, stage: Stage) -> float:
        """How long the relay may take to answer at this stage."""
        if stage == "dot":
            return self.final_dot_timeout_s
        return self.data_timeout_s if stage == "data" else self.timeout_s
