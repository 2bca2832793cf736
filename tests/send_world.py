"""A relay that keeps its own log, and campaigns written straight into the ledger: what sending is judged by."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psycopg

from mailmill.io.postgres import accounts, keys
from mailmill.io.postgres.database import Database

HTML = (
    '<html><body><p>Hello {{ name }}</p><a href="https://shop.example/">shop</a> {{ postal_address }} '
    '<a href="{{ unsubscribe_url }}">leave</a></body></html>'
)
BEAT_S = 0.02
TEXT = "Hello {{ name }}\n{{ postal_address }}\n{{ unsubscribe_url }}\n"


def until(condition: Callable[[], Any], timeout_s: float = 120.0, what: str = "") -> Any:
    """Wait on a condition with a deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.01)


# ---------------------------------------------------------------- a relay


@dataclass(frozen=True, slots=True)
class Taken:
    """One message that the relay took or refused after the dot."""

    at: float  # time.time()
    recipient: str
    message_id: str
    code: int
    body: bytes = field(repr=False, default=b"")


class Sink:
    """A scripted SMTP server in a thread of its own. `script(stage, recipient)` decides each answer:

    None or a line to say; "cut" closes without an answer; "stall" never answers; "slow:N" answers after N seconds,
    "wait" after `go`; "drip" says one byte after the other and never comes to an end; "eof" closes its own half;
    "alert" ends TLS. At `dot` whatever is said, the message is first in the log if it is taken; "taken+cut" takes it
    and closes. At `body` (354 is said) "stall" reads no further. `said(stage, recipient)` is called when an answer is
    on its way.
    """

    def __init__(
        self,
        script: Callable[[str, str], str | None] = lambda stage, recipient: None,
        *,
        pipelining: bool = True,
        keep_bodies: bool = False,
        log: Path | None = None,
        port: int = 0,
        tls: Any = None,
        host: str = "127.0.0.1",
        offers: Sequence[str] = ("AUTH PLAIN LOGIN",),
        implicit: bool = False,
    ) -> None:
        self.script, self.pipelining, self.keep_bodies, self.tls = script, pipelining, keep_bodies, tls
        self.host, self.offers, self.implicit = host, offers, implicit
        self.lines: list[str] = []  # what clients said, whole
        self.peers: list[str] = []  # from where
        self.said: Callable[[str, str], None] = lambda stage, recipient: None
        self.taken: list[Taken] = []
        self.refused: list[Taken] = []
        self.handed: list[tuple[float, str]] = []  # when the body came
        self.commands: list[str] = []
        self.connections = self.open_now = self.most_open = 0
        self._log = log.open("ab", buffering=0) if log else None
        self._port, self.port = port, 0
        self._stalls: list[tuple[float, float]] = []  # until when, how long
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sink:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        if self._log:
            self._log.close()

    def go(self) -> None:
        """Say what waits now."""
        self._loop.call_soon_threadsafe(lambda: (self._gate.set(), self._gate.clear()))

    @property
    def copies(self) -> Counter[str]:
        return Counter(one.recipient for one in self.taken)

    def _run(self) -> None:
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._stop, self._gate = asyncio.Event(), asyncio.Event()
        tls = self.tls if self.implicit else None  # from the first byte on
        server = await asyncio.start_server(self._client, self.host, self._port, limit=2**24, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        beats = asyncio.create_task(self._beat())
        await self._stop.wait()
        beats.cancel()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _beat(self) -> None:
        """Notice for how long the machine let nothing happen here."""
        while True:
            began = time.time()
            await asyncio.sleep(BEAT_S)
            if (late := time.time() - began - BEAT_S) > BEAT_S:
                self._stalls.append((time.time(), late))

    def stalled_s(self, since: float, until: float = float("inf")) -> float:
        """Seconds since then (time.time()) in which a body that had come was not seen yet, at the most."""
        return sum(late for end, late in self._stalls if end > since and end - late < until)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.peers.append(writer.get_extra_info("peername")[0])
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            await self._session(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, _Cut):
            pass
        finally:
            self.open_now -= 1
            self._tasks.discard(task)
            writer.close()

    async def _say(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stage: str,
        recipient: str,
        usual: str,
        said: str | None = None,
    ) -> str:
        said = said or self.script(stage, recipient) or usual
        if said == "cut":
            raise _Cut
        if said == "stall":
            while await reader.read(65536):
                pass
            raise _Cut
        if said.startswith("slow:"):
            await asyncio.sleep(float(said[5:]))
            said = usual
        if said == "wait":
            await self._gate.wait()
            said = usual
        if said == "drip":
            while True:
                writer.write(b"2")
                with suppress(TimeoutError):
                    if not await asyncio.wait_for(reader.read(65536), 0.05):
                        raise _Cut
        if said == "eof":
            writer.write_eof()
            while await reader.read(65536):
                pass
            raise _Cut
        if said == "reset":
            writer.transport.abort()
            raise _Cut
        if said == "alert":  # fatal, and not by the keys that were agreed upon: internal_error (RFC 8446 6.2)
            os.write(writer.get_extra_info("socket").fileno(), b"\x15\x03\x03\x00\x02\x02\x50")
            while await reader.read(65536):
                pass
            raise _Cut
        writer.write(said.encode("utf-8", "surrogateescape") + (b"" if said.endswith("\n") else b"\r\n"))
        await writer.drain()
        self.said(stage, recipient)
        return said

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipient = ""
        refused = False
        await self._say(reader, writer, "banner", "", "220 sink.example ESMTP")
        while True:
            line = (await reader.readuntil(b"\n")).decode("utf-8", "replace").strip()
            verb = line.split(" ", 1)[0].upper()
            self.commands.append(verb)
            self.lines.append(line)
            if verb in ("EHLO", "HELO"):
                offers = [
                    "sink.example",
                    *(["PIPELINING"] if self.pipelining else []),
                    *(["STARTTLS"] if self.tls and not self.implicit else []),
                ]
                offers += self.offers
                usual = "\r\n".join(f"250{'-' if n < len(offers) - 1 else ' '}{o}" for n, o in enumerate(offers))
                await self._say(reader, writer, "ehlo", "", usual)
            elif verb == "STARTTLS":
                await self._say(reader, writer, "starttls", "", "220 go ahead")
                await writer.start_tls(self.tls)
            elif verb == "AUTH":
                if line.upper().startswith("AUTH LOGIN "):  # the user came with it; now the password
                    writer.write(b"334 UGFzc3dvcmQ6\r\n")
                    self.lines.append((await reader.readuntil(b"\n")).decode("ascii").strip())
                await self._say(reader, writer, "auth", "", "235 2.7.0 welcome")
            elif verb == "MAIL":
                recipient = ""
                refused = not (await self._say(reader, writer, "mail", "", "250 2.1.0 sender ok")).startswith("2")
            elif verb == "RCPT":
                recipient = line.split("<", 1)[1].partition(">")[0]
                usual = "503 5.5.1 no sender" if refused else "250 2.1.5 recipient ok"
                said = usual if refused else await self._say(reader, writer, "rcpt", recipient, usual)
                if refused:
                    writer.write(usual.encode() + b"\r\n")
                refused = not said.startswith("2")
            elif verb == "DATA":
                if refused and self.script("data", recipient) is None:
                    writer.write(b"503 5.5.1 no valid recipients\r\n")
                    continue
                said = await self._say(reader, writer, "data", recipient, "354 go ahead")
                if said.startswith("354"):
                    await self._body(reader, writer, recipient, refused)
            elif verb == "RSET":
                refused = False
                writer.write(b"250 2.0.0 reset\r\n")
            elif verb == "QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                await writer.drain()
                return
            else:
                writer.write(b"500 5.5.2 what?\r\n")

    async def _body(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recipient: str, refused: bool
    ) -> None:
        if self.script("body", recipient) == "stall":
            cast("asyncio.Transport", writer.transport).pause_reading()
            await self._stop.wait()
        first = await reader.readexactly(3)
        self.handed.append((time.time(), recipient))
        body = first if first == b".\r\n" else first + await reader.readuntil(b"\r\n.\r\n")
        if refused:
            writer.write(b"554 5.5.1 no valid recipients\r\n")
            return
        found = re.search(rb"^Message-ID: (\S+)", body, re.MULTILINE | re.IGNORECASE)
        answer = self.script("dot", recipient) or "250 2.0.0 taken"
        takes = answer.startswith(("250", "taken", "slow", "stall", "wait", "drip"))
        entry = Taken(
            time.time(),
            recipient,
            found[1].decode() if found else "",
            250 if takes else 0,
            body if self.keep_bodies else b"",
        )
        (self.taken if takes else self.refused).append(entry)
        if self._log:
            self._log.write(json.dumps([entry.at, recipient, entry.message_id, entry.code]).encode() + b"\n")
        if answer.startswith("taken+"):
            answer = answer[6:]
        await self._say(reader, writer, "dot", recipient, "250 2.0.0 taken", answer)


def by_address(answers: dict[str, str]) -> Callable[[str, str], str | None]:
    """Script: `stage` or `stage name` -> what the relay says."""

    def script(stage: str, recipient: str) -> str | None:
        return answers.get(f"{stage} {recipient.split('@')[0]}") or answers.get(stage)

    return script


class _Cut(Exception):
    """The script closes the connection."""


# ---------------------------------------------------------------- campaigns


@dataclass(frozen=True, slots=True)
class World:
    """A migrated database with keys, and builders for what planning would write."""

    database: Database

    def sql(self, statement: Any, *parameters: Any) -> list[Any]:
        with self.database.transaction() as conn:
            cursor = conn.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def campaign(
        self,
        recipients: Sequence[str] | int,
        *,
        port: int = 1,
        slug: str = "spring",
        tenant: str = "acme",
        names: Sequence[str] | None = None,
        providers: dict[str, str] | None = None,  # domain -> who runs its mailboxes
        transport: dict[str, Any] | None = None,
        kind: str = "smtp",
        state: str = "running",
        ends_at: Any = None,
        **content: Any,
    ) -> int:
        """A planned campaign that runs. Out: its id."""
        if isinstance(recipients, int):
            recipients = [f"r{n}@example.org" for n in range(recipients)]
        names = names or ["Anna"] * len(recipients)
        spec = {
            "host": "127.0.0.1", "port": port, "tls": "none", "connections": 4, "timeout_s": 30,
            "final_dot_timeout_s": 30, "messages_per_connection": 1000, **(transport or {}),
        }  # fmt: skip
        frozen = {
            "merge_fields": ["name"], "from_name": "Acme",
            "variants": [{"subject": "Hi {{ name }}", "html": HTML, "text": TEXT, "links": [0]}],
            "from_address": "news@acme.example", "reply_to": None, "return_path_domain": "bounce.acme.example",
            "list_id": "spring.acme.example", "postal_address": "1 Quay", "tenant_name": "Acme",
            "public_url": "https://t.acme.example", "doubt": "hold", "max_attempts": 8, "give_up_after_s": 259200,
            "window": None, "sandbox": False, "links": ["https://shop.example/"], **content,
        }  # fmt: skip
        with self.database.transaction() as conn:
            return self._insert(conn, tenant, slug, kind, spec, frozen, state, ends_at, recipients, names, providers)

    def _insert(
        self, conn: psycopg.Connection, tenant: str, slug: str, kind: str, spec: Any, frozen: Any, state: str,
        ends_at: Any, recipients: Sequence[str], names: Sequence[str], providers: dict[str, str] | None,
    ) -> int:  # fmt: skip
        keys.ensure(conn)

        def one(statement: str, *parameters: Any) -> int:
            row = conn.execute(statement, parameters).fetchone()  # type: ignore[call-overload]
            assert row is not None
            return int(row[0])

        tenant_id = one(
            "INSERT INTO tenants (slug, name, postal_address, spec) VALUES (%s, 'T', 'P', '{}')"
            " ON CONFLICT (slug) DO UPDATE SET name = 'T' RETURNING id", tenant,
        )  # fmt: skip
        transport_id = one(
            "INSERT INTO transports (tenant_id, slug, kind, spec) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (tenant_id, slug) DO UPDATE SET spec = excluded.spec RETURNING id",
            tenant_id, f"relay-{spec['port']}", kind, json.dumps(spec),
        )  # fmt: skip
        first = one("UPDATE message_ids SET next = next + %s RETURNING old.next", len(recipients))
        campaign_id = one(
            "INSERT INTO campaigns (tenant_id, slug, spec, state, transport_id, content, first_message_id, planned,"
            " ends_at, started_at) VALUES (%s, %s, '{}', %s, %s, %s, %s, %s, %s, clock_timestamp()) RETURNING id",
            tenant_id, slug, state, transport_id, json.dumps(frozen), first, len(recipients), ends_at,
        )  # fmt: skip
        conn.execute(
            "INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain, provider)"
            " SELECT %s + n - 1, %s, %s, %s + n, a, lower(a), at, %s::jsonb ->> at"
            " FROM unnest(%s::text[]) WITH ORDINALITY u (a, n), split_part(a, '@', 2) at",
            (first, tenant_id, campaign_id, first, json.dumps(providers or {}), list(recipients)),
        )
        conn.execute(
            "INSERT INTO message_fields (message_id, tenant_id, merge_values)"
            " SELECT %s + n - 1, %s, v FROM unnest(%s::text[]) WITH ORDINALITY u (v, n)",
            (first, tenant_id, list(names)),
        )
        return campaign_id

    def account(self, campaign_id: int) -> dict[str, int]:
        with self.database.transaction() as conn:
            found = accounts.account(conn, campaign_id)
        assert found.unaccounted == 0
        return found.by_state

    def state(self, campaign_id: int) -> str:
        return str(self.sql("SELECT state FROM campaigns WHERE id = %s", campaign_id)[0][0])

    def rows(self, campaign_id: int) -> dict[str, tuple[str, str | None, int]]:
        """address -> (state, reason, attempt)."""
        found = self.sql("SELECT address, state, reason, attempt FROM messages WHERE campaign_id = %s", campaign_id)
        return {address: (state, reason, attempt) for address, state, reason, attempt in found}

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(bytes(val)) for (val,) in self.sql("SELECT val FROM log ORDER BY part, off")]

    def due_now(self) -> None:
        self.sql("UPDATE messages SET due_at = '-infinity' WHERE state = 'deferred'")


@contextmanager
def thread(target: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
    """Run something beside the test. Yields a function that waits for its result."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append((target(), None))
        except BaseException as error:
            found.append((None, error))

    running = threading.Thread(target=run, daemon=True)
    running.start()

    def result(timeout_s: float = 120.0) -> Any:
        running.join(timeout_s)
        assert found, "still running"
        if found[0][1]:
            raise found[0][1]
        return found[0][0]

    yield result
    running.join(120)
    assert not running.is_alive()
