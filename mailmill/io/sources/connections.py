"""Connections to APIs of others: where they may lead, and what a failed one is called.

An API's address comes from a YAML file, perhaps a tenant's, and its name from DNS, which others control. So connections
are made only to public addresses, or to what the operator has allowed (MAILMILL_PRIVATE_SOURCES); the name is looked up
once, and the connection made to the very address that was judged: a second look-up could say another. No proxy is used.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import httpcore
import httpx
from httpcore._backends.sync import SyncBackend

_NAT64, _LOCAL_NAT64 = IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48")  # RFC 6052, RFC 8215


class Refused(Exception):
    """The host is no public one, and nobody has allowed it."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(
            f"{host} is {address}, which is no public address" if host != address else f"{host} is private"
        )
        self.remedy = f"If it is meant, allow it: MAILMILL_PRIVATE_SOURCES={host}. Otherwise correct `url`."


def allowed(host: str, address: str, private: Iterable[str]) -> bool:
    """Whether a source may be read from this address of this host.

    In: private: names, addresses and networks (10.2.0.0/16) that may be reached although they are private.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    return _public(ip) or any(_names(entry, host, ip) for entry in private)


def _public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv6Address):
        if ip in _LOCAL_NAT64:
            return False
        carried = (
            ip.sixtofour or (ip.teredo and ip.teredo[1]) or (IPv4Address(int(ip) % 2**32) if ip in _NAT64 else None)
        )
        if carried and not _public(carried):
            return False
    return ip.is_global and not ip.is_multicast


def _names(entry: str, host: str, ip: IPv4Address | IPv6Address) -> bool:
    try:
        return ip in ip_network(entry, strict=False)
    except ValueError:
        return entry.lower().rstrip(".") == host.lower().rstrip(".")


class _Judged(httpcore.NetworkBackend):
    """Connects to the first address of a host that may be reached. A host with a forbidden one is refused whole."""

    def __init__(self, private: Sequence[str]) -> None:
        self._private, self._below = private, SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            if not allowed(host, address, self._private):
                raise Refused(host, address)
        for last, address in enumerate(addresses, 1 - len(addresses)):
            try:
                return self._below.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not last:
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def transport(private: Sequence[str]) -> httpx.HTTPTransport:
    """One connection at a time, to where it may lead."""
    made = httpx.HTTPTransport()
    made._pool = httpcore.ConnectionPool(  # httpx has no parameter for it; test_F17_… holds this in place
        ssl_context=httpx.create_ssl_context(trust_env=False), max_connections=1, network_backend=_Judged(private)
    )
    return made


def told(error: httpx.RequestError, url: str, timeout_s: float) -> str:
    """A failed connection in our words."""
    at = httpx.URL(url)
    place = f"{at.host}:{at.port or (443 if at.scheme == 'https' else 80)}"
    if has_cause(error, ConnectionRefusedError):
        return f"nobody listens at {place}"
    if has_cause(error, socket.gaierror):
        return f"there is no host {at.host}, or names cannot be looked up"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer from {place} within {timeout_s:g} s"
    return f"the connection to {place} failed ({type(error).__name__})"


def has_cause(error: BaseException, kind: type[OSError]) -> bool:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def retry_after_s(headers: httpx.Headers) -> float:
    """Seconds of a Retry-After header in either of its forms; 0 without one. Source: RFC 9110 10.2.3."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal() and text.isascii():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def used_up_s(headers: httpx.Headers) -> float:
    """Seconds until a rate limit that is used up begins anew; 0 where some is left or nothing is said.

    X-RateLimit-Reset is seconds from now with some, seconds since 1970 with others; no limit lasts a year.
    """
    remaining = headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining", "")).strip()
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", "")).strip()
    try:
        left, at = float(remaining), float(reset)
    except ValueError:
        return 0.0
    if left > 0:
        return 0.0
    return max(0.0, at - time.time() if at > 365 * 86400 else at)
