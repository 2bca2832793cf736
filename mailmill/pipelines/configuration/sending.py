"""What an operator may write about the ways out and about who a mail is from."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, IPvAnyAddress, StringConstraints, field_validator, model_validator

from mailmill.pipelines.configuration.words import Address, DomainName, Host, Line, SecretReference, Spec, TenantOwned
from mailmill.pipelines.send.headers import MAX_CUSTOM, problem


class TransportSpec(TenantOwned):
    """A way out: an SMTP relay, or the sandbox on loopback, to which every window and limit is open."""

    kind: Literal["transport"]
    type: Literal["smtp", "sandbox"]
    host: Host = "127.0.0.1"
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["required", "opportunistic", "implicit", "none"] = "required"  # required never falls back
    username: str | None = None
    password: SecretReference | None = None
    connections: int = Field(default=4, ge=1, le=200)
    auth: Literal["password", "xoauth2"] = "password"  # xoauth2: password refers to an access token kept fresh
    proxy: str | None = None  # socks5://host:port; with credentials a reference (env:, file:) to such a URL
    source_address: IPvAnyAddress | None = None  # of this host; the address that the relay sees
    hello: DomainName | None = None  # the name said in EHLO; this host's when not given
    dsn: bool = False  # ask for reports of failure and delay where the relay offers DSN (RFC 3461)
    messages_per_connection: int = Field(default=1000, ge=1)
    # RFC 5321 4.5.3.2: five minutes for a command, two for DATA, ten for the final dot
    connect_timeout_s: float = Field(default=30, gt=0, le=300)
    timeout_s: float = Field(default=300, gt=0, le=600)
    data_timeout_s: float = Field(default=120, gt=0, le=600)
    final_dot_timeout_s: float = Field(default=600, gt=0, le=1800)
    per_minute: int | None = Field(default=None, ge=1)
    per_day: int | None = Field(default=None, ge=1)
    webhook_secret: SecretReference | None = None  # signs what POSTs to /webhooks/<tenant>/<transport>

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "sandbox" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("a sandbox is on loopback: host has to be 127.0.0.1, ::1 or localhost")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.auth == "xoauth2" and self.username is None:
            raise ValueError("auth xoauth2 needs username, and password referring to the access token")
        if self.proxy is not None and not re.match(r"^(env:|file:|socks5h?://[^@/]+:\d+$)", self.proxy):
            raise ValueError("proxy is socks5://host:port, or env: or file: referring to such a URL with credentials")
        if self.username and self.tls in ("none", "opportunistic") and self.type == "smtp":
            raise ValueError(f"tls: {self.tls} may send the password in the clear: set tls to required or implicit")
        return self


class DkimSpec(Spec):
    """A key that signs an identity's messages; `mailmill keys dkim` makes it and says what to publish.

    Without `key` the relay signs with this selector, and the record is only looked up.
    """

    selector: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    domain: DomainName  # that of from_address, or one above it
    key: SecretReference | None = None
    algorithm: Literal["rsa", "ed25519"] = "rsa"


def _headers(headers: dict[str, str]) -> dict[str, str]:
    wrong = [found for found in (problem(name, value) for name, value in headers.items()) if found]
    if len({name.lower() for name in headers}) < len(headers):
        wrong.append("a header stands twice")
    if len(headers) > MAX_CUSTOM:
        wrong.append(f"more than {MAX_CUSTOM} headers")
    if wrong:
        raise ValueError(wrong[0])
    return headers


Headers = Annotated[dict[str, str], AfterValidator(_headers)]


class IdentitySpec(TenantOwned):
    """Who a mail is from."""

    kind: Literal["identity"]
    from_name: Line
    from_address: Address
    reply_to: Address | None = None
    return_path_domain: DomainName  # where bounces go; aligned with the domain of from_address
    unsubscribe_mailbox: Address | None = None  # read by `mailmill unsubscribe`
    headers: Headers = Field(default_factory=dict)
    dkim: tuple[DkimSpec, ...] = Field(default=(), max_length=4)

    @field_validator("from_address", "reply_to", "unsubscribe_mailbox")
    @classmethod
    def _reaches_everybody(cls, address: str | None) -> str | None:
        if address is not None and not address.rpartition("@")[0].isascii():
            raise ValueError("before the @ only ASCII is allowed: few relays carry anything else")
        return address
