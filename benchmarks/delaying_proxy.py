"""A TCP proxy on loopback, in a process of its own, that hands on what comes after a delay: a relay far away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """Yields the proxy's port."""
    process = subprocess.Popen([sys.executable, __file__, str(port), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


class _Side(asyncio.Protocol):
    """One end of a connection; what it reads is written to the other end later, in order."""

    def __init__(self, delay_s: float, other: _Side | None = None) -> None:
        self.delay_s, self.other = delay_s, other
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        for data in self._early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay_s, self._hand_on, data)

    def _hand_on(self, data: bytes) -> None:
        assert self.other is not None
        if self.other.transport is None:
            self.other._early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            asyncio.get_running_loop().call_later(self.delay_s, self.other.transport.close)


async def _main(port: int, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    openings: set[asyncio.Task[object]] = set()

    def accepted() -> _Side:
        near = _Side(delay_s)
        near.other = _Side(delay_s, near)
        opening = loop.create_task(loop.create_connection(lambda: near.other or near, "127.0.0.1", port))
        openings.add(opening)
        opening.add_done_callback(openings.discard)
        return near

    server = await loop.create_server(accepted, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2])))
