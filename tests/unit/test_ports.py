"""A taken port is named with the setting that moves it, before anything is started."""

from __future__ import annotations

import socket

import pytest

from mailmill.cli.ports import refuse_taken
from mailmill.errors import Misconfigured


def test_a_taken_port_is_refused_and_a_free_one_is_left_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=rf"MAILMILL_STATS_PORT: .*port {port}"):
            refuse_taken("127.0.0.1", port, setting="MAILMILL_STATS_PORT")
    for _ in range(2):
        refuse_taken("127.0.0.1", port, setting="MAILMILL_STATS_PORT")


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("192.0.2.1", 8025)])
def test_a_port_or_address_that_cannot_be_is_refused_in_the_same_words(host: str, port: int) -> None:
    with pytest.raises(Misconfigured, match="cannot listen"):
        refuse_taken(host, port, setting="MAILMILL_INGRESS_PORT")
