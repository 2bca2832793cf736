"""SMTP relays: connecting, TLS, AUTH and EHLO by aiosmtplib, then our own exchange on that connection (smtp_link.py).

`tls: required` never falls back to the clear; `opportunistic` takes TLS where it is offered and does not look at the
certificate. A connection may go through a SOCKS5 proxy and from a chosen address of this host.

Source: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 1928 (SOCKS5).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

import aiosmtplib
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError
from python_socks.async_.asyncio import Proxy

from mailmill.errors import Misconfigured, TransportUnavailable
from mailmill.io.transports.smtp_config import SmtpConfig
from mailmill.io.transports.smtp_link import SmtpLink
from mailmill.pipelines.send.envelopes import Offers
from mailmill.pipelines.send.ports import Desk, RouteRefused

Tell = Callable[[str, str], None]  # (step, what was found), for `mailmill transport test`


def _silent(step: str, found: str) -> None:
    return None


class SmtpRelay:
    """Relay over SMTP."""

    def __init__(self, config: SmtpConfig, tell: Tell = _silent) -> None:
        self._config, self._tell = config, tell

    async def open(self, desk: Desk, name: str) -> SmtpLink:
        config = self._config
        try:
            client = await self._connected()
        except aiosmtplib.SMTPResponseException as error:
            raise RouteRefused("banner", error.code, str(error.message)) from error
        except (aiosmtplib.SMTPException, OSError, UnicodeError) as error:  # UnicodeError: the host is no name
            raise _unavailable(config, error) from error
        transport = cast("asyncio.Transport | None", client.transport)  # uvloop's is no subclass of it
        if transport is None or transport.is_closing():
            raise TransportUnavailable(f"the relay {config.host}:{config.port} hung up")
        link = SmtpLink(desk, config, name, _offers(client, dsn=config.dsn))
        link.connection_made(transport)
        transport.set_protocol(link)
        return link

    async def _connected(self) -> aiosmtplib.SMTP:
        """A client that has said EHLO, over TLS and with AUTH as configured."""
        config = self._config
        client = aiosmtplib.SMTP(
            timeout=config.timeout_s, use_tls=config.tls == "implicit", start_tls=False,
            local_hostname=config.hello or _hello_name(),
            **await self._way(),
        )  # fmt: skip
        try:
            await self._greeted(client)
            self._tell("connect", f"{config.host}:{config.port} says hello")
            await self._hello(client)
            if config.tls in ("required", "opportunistic"):
                await self._secured(client)
            if config.tls != "none":
                self._tell("tls", _tls_of(client))
            if config.username is not None:
                await self._authenticated(client)
        except BaseException:
            client.close()
            raise
        return client

    async def _greeted(self, client: aiosmtplib.SMTP) -> None:
        try:
            await client.connect()
        except aiosmtplib.SMTPTimeoutError as error:
            if self._config.tls == "implicit":
                raise
            raise TransportUnavailable(
                f"the relay {self._config.host}:{self._config.port} accepts the connection and says nothing: it is "
                "busy, or waits for TLS from the first byte, as on port 465 (tls: implicit)"
            ) from error

    async def _way(self) -> dict[str, Any]:
        """A socket that is connected to the relay, through the proxy and from the address the operator chose.

        Raises: TransportUnavailable; OSError.
        """
        config = self._config
        source = (config.source_address, 0) if config.source_address else None
        if config.proxy is None:
            return {"sock": await _connected_socket(config, source), "hostname": config.host}
        url = config.secret(config.proxy) if config.proxy.startswith(("env:", "file:")) else config.proxy
        # socks5h is curl's word for what both are here: the proxy looks the name up
        try:
            sock = await Proxy.from_url(url.replace("socks5h:", "socks5:", 1)).connect(
                config.host, config.port, timeout=config.connect_timeout_s, local_addr=source
            )
        except ValueError:  # its words may hold the password
            raise Misconfigured("the proxy is no URL such as socks5://host:1080", place="proxy") from None
        except (ProxyError, ProxyConnectionError, ProxyTimeoutError) as error:
            raise TransportUnavailable(f"the proxy does not lead to {config.host}:{config.port}: {error}") from error
        sock.setblocking(False)
        return {"sock": sock, "hostname": config.host}

    async def _hello(self, client: aiosmtplib.SMTP) -> None:
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if error.code not in (500, 502, 504):
                raise RouteRefused("ehlo", error.code, str(error.message)) from error
            try:
                await client.helo()
            except aiosmtplib.SMTPHeloError as again:
                raise RouteRefused("ehlo", again.code, str(again.message)) from again
        self._tell("ehlo", ", ".join(sorted(client.esmtp_extensions)) or "no extensions")

    async def _secured(self, client: aiosmtplib.SMTP) -> None:
        required = self._config.tls == "required"
        if not client.supports_extension("starttls"):
            if required:
                raise RouteRefused("starttls", 530, "the relay does not offer STARTTLS and tls is required")
            return
        context = ssl.create_default_context()
        if not required:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            await client.starttls(tls_context=context, server_hostname=self._config.host)
        except aiosmtplib.SMTPResponseException as error:
            if required:
                raise RouteRefused("starttls", error.code, str(error.message)) from error
            return
        await self._hello(client)

    async def _authenticated(self, client: aiosmtplib.SMTP) -> None:
        config = self._config
        password = config.secret(config.password) if config.password else ""
        try:
            if config.auth == "xoauth2":
                if "xoauth2" not in client.server_auth_methods:
                    raise RouteRefused("auth", 530, "the relay does not offer XOAUTH2")
                await client.auth_xoauth2(config.username or "", password)
            else:
                await _logged_in(client, config.username or "", password)
        except aiosmtplib.SMTPResponseException as error:
            raise RouteRefused("auth", error.code, str(error.message)) from error
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError):
            raise
        except aiosmtplib.SMTPException as error:  # none offered, or none of ours
            raise RouteRefused("auth", 530, str(error)) from error
        self._tell("auth", f"let in as {config.username}")


async def _logged_in(client: aiosmtplib.SMTP, username: str, password: str) -> None:
    """By the first method that relay and library know and the relay takes; some offer one that they do not have.

    A relay may hang up on who was refused: then the refusal is what it said, and not that it is away.
    """
    refused: aiosmtplib.SMTPAuthenticationError | None = None
    for method in client.supported_auth_methods:
        try:
            await getattr(client, f"auth_{method.replace('-', '')}")(username, password)
            return
        except aiosmtplib.SMTPAuthenticationError as error:  # 535 says more than a 421 behind it
            refused = error if refused is None or error.code > refused.code else refused
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError):
            if refused is None:
                raise
            break
    raise refused or aiosmtplib.SMTPException("the relay offers no AUTH, or by no method that is known here")


async def _connected_socket(config: SmtpConfig, source: tuple[str, int] | None) -> socket.socket:
    """To the first of the host's addresses that answers, IPv6 and IPv4 alike (of the source's kind, if there is one).

    Raises: OSError of the last one tried; each has its share of the time.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
    if source is not None:
        wanted = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
        found = [one for one in found if one[0] == wanted]
    last = OSError(f"it has no address that {source[0] if source else 'this host'} can reach")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            if source is not None:
                sock.bind(source)
            async with asyncio.timeout(config.connect_timeout_s / len(found)):
                await loop.sock_connect(sock, address)
        except OSError as error:  # TimeoutError is one
            sock.close()
            last = error if str(error) else OSError("no answer in time")
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last


def _offers(client: aiosmtplib.SMTP, *, dsn: bool) -> Offers:
    size = client.esmtp_extensions.get("size", "")
    return Offers(
        pipelining=client.supports_extension("pipelining"),
        size=client.supports_extension("size"),
        most_bytes=int(size) if size.isdecimal() and len(size) < 16 else 0,
        smtputf8=client.supports_extension("smtputf8"),
        dsn=dsn and client.supports_extension("dsn"),
    )


def _tls_of(client: aiosmtplib.SMTP) -> str:
    link = client.get_transport_info("ssl_object") if client.transport is None else None
    link = link or (client.transport.get_extra_info("ssl_object") if client.transport is not None else None)
    if link is None:
        return "not offered: in the clear"
    return f"{link.version()} {link.cipher()[0]}"


def _unavailable(config: SmtpConfig, error: BaseException) -> TransportUnavailable:
    """A certificate that does not hold is a fault a person has to mend; anything else may pass."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RouteRefused("starttls", 554, f"the certificate does not hold: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return RouteRefused("starttls", 454, f"no TLS with {config.host}:{config.port}: {cause.reason or cause}")
        cause = cause.__cause__ or cause.__context__
    number = error.errno if isinstance(error, OSError) else None  # asyncio's own words say errno and address again
    said = os.strerror(number) if number else str(error)
    return TransportUnavailable(f"the relay {config.host}:{config.port} does not answer: {said}")


def _hello_name() -> str:
    name = socket.gethostname()
    return name if "." in name else f"{name}.localdomain"
