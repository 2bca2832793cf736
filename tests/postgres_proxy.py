"""A door before PostgreSQL that is shut in the middle of a COMMIT: what a network does at the worst moment."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

Fate = Literal["lost", "unheard"]  # the COMMIT never arrived; it was done, and nobody was told


class CommitProxy:
    """Passes one role's sessions on. `fate(statements)` is asked before each COMMIT, given its transaction's texts,
    and decides whether the connection is cut there, and on which side of the commit. `cuts` counts them.

    Source: PostgreSQL's frontend/backend protocol 3: a type byte, a length that counts itself, a body; the start-up
    message has no type. psycopg says COMMIT as a simple query.
    """

    def __init__(self, conninfo: str, fate: Callable[[list[str]], Fate | None]) -> None:
        parts = conninfo_to_dict(conninfo)
        self._upstream = f"{parts['host']}/.s.PGSQL.{parts['port']}"
        self._folder = Path(tempfile.mkdtemp(prefix="mmp"))
        self.conninfo = make_conninfo(conninfo, host=str(self._folder))
        self._path = str(self._folder / f".s.PGSQL.{parts['port']}")
        self._fate, self.cuts = fate, 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._main()), daemon=True)

    def __enter__(self) -> CommitProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_unix_server(self._client, self._path)
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        deaf = asyncio.Event()  # what the server says is not passed on any more
        back = asyncio.create_task(self._back(up_reader, writer, deaf))
        try:
            await self._forth(reader, up_writer, deaf, back)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            writer.transport.abort()
            up_writer.transport.abort()
            self._tasks.discard(task)

    async def _back(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        while data := await source.read(65536):
            if deaf.is_set():
                return  # it has answered the COMMIT
            target.write(data)
        target.close()

    async def _forth(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, deaf: asyncio.Event, back: asyncio.Task[None]
    ) -> None:
        known: dict[bytes, str] = {}  # prepared statements
        said: list[str] = []
        start = await source.readexactly(4)
        target.write(start + await source.readexactly(int.from_bytes(start, "big") - 4))
        while True:
            head = await source.readexactly(5)
            body = await source.readexactly(int.from_bytes(head[1:], "big") - 4)
            if head[:1] == b"P":
                name, text = body.split(b"\0", 2)[:2]
                known[name] = text.decode()
            elif head[:1] == b"B":
                said.append(known.get(body.split(b"\0", 2)[1], ""))
            elif head[:1] == b"Q" and body == b"COMMIT\0":
                fate, said = self._fate(said), []
                if fate is not None:
                    self.cuts += 1
                    if fate == "unheard":
                        deaf.set()
                        target.write(head + body)
                        await back
                    return
            target.write(head + body)
            await target.drain()
