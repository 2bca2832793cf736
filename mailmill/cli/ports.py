"""Ports that a server is about to listen on: a taken one is named before anything is started."""

from __future__ import annotations

import socket

from mailmill.errors import Misconfigured


def refuse_taken(host: str, port: int, *, setting: str) -> None:
    """Try the port and leave it again.

    Raises: Misconfigured naming the setting, when somebody listens there or the address is not of this machine.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a server that ended left behind is free
            probe.bind((host, port))
            probe.listen()
    except (OSError, OverflowError) as error:
        raise Misconfigured(
            f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}",
            place=setting,
            remedy="End what listens there, such as another terminal's mailmill, or set another port.",
        ) from None
