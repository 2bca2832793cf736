"""Ports for servers of the tests that must know theirs before they listen."""

from __future__ import annotations

import random
import socket

# below those that the system hands out by itself (ip_local_port_range): nobody's connection takes one meanwhile
_CHOICE = range(12_000, 32_000)
_chance = random.SystemRandom()  # test processes that begin alike must not draw alike
_given: set[int] = set()


def free_port() -> int:
    """Where nobody listens, and where this process was not told to listen before."""
    while True:
        port = _chance.choice(_CHOICE)
        with socket.socket() as probe:
            if port not in _given and probe.connect_ex(("127.0.0.1", port)):
                _given.add(port)
                return port
