"""The sandbox as something that runs: in this loop or in a thread. Only on loopback."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mailmill.errors import Misconfigured
from mailmill.sandbox.log import Log
from mailmill.sandbox.relay import Handler, server
from mailmill.sandbox.reports import Reporter, Webhook
from mailmill.sandbox.rules import Rules, read_rules

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """In: port 0 takes a free one; rules None those that come with mailmill; ingress None: URLs in messages are only
    followed when they lead to loopback, and nothing is told to webhooks."""

    log: Path
    port: int = 0
    host: str = "127.0.0.1"
    rules: Path | None = None
    ingress: str | None = None
    webhooks: tuple[Webhook, ...] = ()
    hostname: str = "sandbox.localhost"

    def read(self) -> Rules:
        """Raises: Misconfigured for a wrong rules file, or an address that is not on loopback."""
        if self.host not in LOOPBACK:
            raise Misconfigured("the sandbox listens on loopback only", place=self.host)
        return read_rules(self.rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """messages: taken since the start. waiting: reports that are not made yet. dropped: reports that never will be."""

    messages: int
    waiting: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A sandbox that runs elsewhere. `progress()` may be asked at any time."""

    port: int
    progress: Callable[[], Progress]


async def run(
    config: SandboxConfig, started: Callable[[int, Callable[[], Progress]], None], stop: asyncio.Event
) -> None:
    """Serve until `stop` is set. `started` is called with the port and a function that tells the progress.

    Raises: Misconfigured when the port is taken.
    """
    rules = config.read()
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd tells every command and with it every address
    loop = asyncio.get_running_loop()
    log = Log(config.log)
    reporter = Reporter(ingress=config.ingress, webhooks=config.webhooks, log=log)
    handler = Handler(rules, log, reporter.taken)
    try:
        listener = await loop.create_server(
            lambda: server(handler, hostname=config.hostname, loop=loop), config.host, config.port, backlog=512
        )
    except OSError as error:
        log.close()
        remedy = "Stop what listens there, or name another port."
        raise Misconfigured(f"cannot listen: {error.strerror}", place=f"port {config.port}", remedy=remedy) from None
    reporting = asyncio.create_task(reporter.run())
    started(
        listener.sockets[0].getsockname()[1],
        lambda: Progress(messages=handler.messages, waiting=reporter.waiting, dropped=reporter.dropped),
    )
    try:
        await stop.wait()
    finally:
        listener.close()
        reporting.cancel()
        with suppress(asyncio.CancelledError):
            await reporting
        await _end_connections()
        log.close()


async def _end_connections() -> None:
    """Clients are not asked: a relay may go away at any time."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def in_thread(config: SandboxConfig) -> Iterator[Running]:
    """A sandbox in a thread of this process, for tests. It shares the interpreter with whoever sends."""
    ready: threading.Event = threading.Event()
    found: list[tuple[int, Callable[[], Progress]]] = []
    failed: list[BaseException] = []
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def started(port: int, progress: Callable[[], Progress]) -> None:
        found.append((port, progress))
        ready.set()

    def serve() -> None:
        try:
            loop.run_until_complete(run(config, started, stop))
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=serve, name="sandbox", daemon=True)
    thread.start()
    ready.wait()
    if failed:
        raise failed[0]
    try:
        yield Running(port=found[0][0], progress=found[0][1])
    finally:
        with suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(stop.set)
        thread.join(10)
