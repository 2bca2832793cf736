"""A campaign of 10 KB messages with everything (claim, render, journal, send, record, events), against Postfix's tools.

    send.smtp            to smtp-sink, against smtp-source -d in the same rounds, both over 20 connections
    send.dkim_ed25519    the same, signed; against the same reference
    send.dkim_rsa        the same with a key of 2,048 bits
    send.growth          ten times the messages, against send.smtp of the same run
    send.latency         through a proxy that delays each direction by 25 ms: messages a round trip and connection

A worker's time begins when its process has loaded its code and ends when it has recorded everything and left: to
connect to the database, look for what earlier workers left, open connections and say goodbye is in it.

usage: make bench BENCH=send     (in the environment: MESSAGES 200000, ROUNDS 3, LINES names with commas, WORKERS one a
core, four at most)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import measure
from delaying_proxy import delayed
from postfix_tools import PostfixTools, tools

from mailmill.io.postgres import keys
from mailmill.io.postgres.database import Database
from mailmill.pipelines.send import dkim

MESSAGES = int(os.environ.get("MESSAGES", "200000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
WORKERS = int(os.environ.get("WORKERS", min(os.cpu_count() or 1, 4)))  # as docs/production.md has it
LINES = os.environ.get("LINES", "smtp,dkim_ed25519,dkim_rsa,growth,latency").split(",")
CONNECTIONS, SIZE = 20, 10_900
DELAY_S = 0.025  # each direction
LINKS = ["https://shop.example/spring", "https://shop.example/sale?from=mail", "https://shop.example/about"]
PARAGRAPH = "The spring collection has arrived, with two hundred things made by people who like making them. "


def content(signed: bool) -> dict[str, object]:
    """A frozen campaign: two merge fields, three links, pixel; about 10 KB on the wire."""
    anchors = "".join(f'<p><a href="{link}">Look here</a></p>\n' for link in LINKS)
    html = (
        "<html><body><p>Dear {{ name }} of {{ company }},</p>\n"
        + f"<p>{PARAGRAPH}</p>\n" * 70
        + anchors
        + '<p>{{ postal_address }} <a href="{{ unsubscribe_url }}">Unsubscribe</a></p></body></html>\n'
    )
    text = (
        "Dear {{ name }} of {{ company }},\n" + f"{PARAGRAPH}\n" * 22 + "{{ postal_address }}\n{{ unsubscribe_url }}\n"
    )
    return {
        "merge_fields": ["name", "company"],
        "variants": [{"subject": "Spring for {{ name }}", "html": html, "text": text, "links": [0, 1, 2]}],
        "dkim": [{"domain": "bench.example", "selector": "m1", "key": "file:key"}] if signed else [],
        "from_name": "Bench", "from_address": "news@bench.example", "reply_to": None,
        "return_path_domain": "bounce.bench.example", "list_id": "spring.bench.example",
        "postal_address": "1 Quay, Harbour", "tenant_name": "Bench", "public_url": "https://t.bench.example",
        "doubt": "hold", "max_attempts": 8, "give_up_after_s": 259200, "window": None, "sandbox": False,
        "links": LINKS,
    }  # fmt: skip


def campaign(database: Database, slug: str, port: int, messages: int, *, signed: bool = False) -> int:
    """A planned campaign that is running. Out: its id."""
    spec = {"host": "127.0.0.1", "port": port, "tls": "none", "connections": CONNECTIONS // WORKERS,
            "messages_per_connection": 1_000_000}  # fmt: skip
    with database.transaction() as conn:
        keys.ensure(conn)
        conn.execute(
            "INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('bench', 'Bench', 'Here', '{}')"
            " ON CONFLICT DO NOTHING"
        )
        row = conn.execute(
            "INSERT INTO transports (tenant_id, slug, kind, spec) SELECT id, %s, 'smtp', %s FROM tenants"
            " RETURNING tenant_id, id", (slug, json.dumps(spec)),
        ).fetchone()  # fmt: skip
        assert row is not None
        tenant, transport = row
        row = conn.execute("UPDATE message_ids SET next = next + %s RETURNING old.next", (messages,)).fetchone()
        assert row is not None
        first = row[0]
        row = conn.execute(
            "INSERT INTO campaigns (tenant_id, slug, spec, state, transport_id, content, first_message_id, planned,"
            " started_at) VALUES (%s, %s, '{}', 'running', %s, %s, %s, %s, clock_timestamp()) RETURNING id",
            (tenant, slug, transport, json.dumps(content(signed)), first, messages),
        ).fetchone()
        assert row is not None
        conn.execute(
            "INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain, provider)"
            " SELECT %(first)s + n, %(tenant)s, %(campaign)s, %(first)s + n, 'person' || n || '@mail.example',"
            " 'person' || n || '@mail.example', 'mail.example', 'google' FROM generate_series(0, %(n)s - 1) n",
            {"first": first, "tenant": tenant, "campaign": row[0], "n": messages},
        )
        conn.execute(
            "INSERT INTO message_fields (message_id, tenant_id, merge_values)"
            " SELECT %(first)s + n, %(tenant)s, 'Ann Number' || n || E'\\x1f' || 'Company ' || n %% 5000"
            " FROM generate_series(0, %(n)s - 1) n",
            {"first": first, "tenant": tenant, "n": messages},
        )
    with database.connect(autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE messages, message_fields")
    return int(row[0])


def send(database: Database, campaign_id: int, messages: int, key: str = "") -> tuple[float, int, float]:
    """Run the workers to the end. Out: messages a second, MB of the largest worker, CPU us a message of the workers."""
    program = str(Path(__file__).parent / "send_worker_process.py")
    with tempfile.TemporaryDirectory(prefix="mmjournal") as journal:
        arguments = [sys.executable, program, database.conninfo("sender"), journal, key]
        workers = [subprocess.Popen([*arguments, f"w{n}"], stdout=subprocess.PIPE, text=True) for n in range(WORKERS)]
        reports = [json.loads(worker.communicate()[0]) for worker in workers]
    with database.transaction() as conn:
        row = conn.execute(
            "SELECT count(*) FILTER (WHERE state = 'sent'), (SELECT count(*) FROM attempts a JOIN messages m ON"
            " m.id = a.message_id WHERE m.campaign_id = %(id)s) FROM messages WHERE campaign_id = %(id)s",
            {"id": campaign_id},
        ).fetchone()
    if row != (messages, messages):
        raise SystemExit(f"sent and attempted are {row}, not {messages}: {reports}")
    seconds = max(report["ended"] for report in reports) - min(report["began"] for report in reports)
    cpu_s = sum(report["cpu_s"] for report in reports)
    return messages / seconds, max(report["rss_mb"] for report in reports), cpu_s / messages * 1e6


def compared(postfix: PostfixTools, database: Database, name: str, messages: int, key: str = "") -> list[float]:
    """One line against smtp-source, in pairs. Out: our rates."""
    ours, reference, rss, cpu = [], [], [], []
    for round in range(ROUNDS):
        with postfix.sink() as (port, _):
            reference.append(postfix.source_rate(port, min(MESSAGES, 100_000), size=SIZE, connections=CONNECTIONS))
        with postfix.sink() as (port, _):
            id = campaign(database, f"{name}-{round}", port, messages, signed=bool(key))
            rate, mb, us = send(database, id, messages, key)
        ours.append(rate)
        rss.append(mb)
        cpu.append(us)
        print(f"# {name} {round + 1}: ours {rate:,.0f}/s, smtp-source {reference[-1]:,.0f}/s, worker {us:.0f} us CPU"
              f" a message, {mb} MB", file=sys.stderr, flush=True)  # fmt: skip
    measure.result(f"send.{name}", "messages/s", ours, reference, peak_mb=max(rss))
    print(f"# {datetime.now(UTC):%Y-%m-%d} {messages:,} messages, {WORKERS} worker(s): {statistics.median(cpu):.0f} us"
          " CPU a message", file=sys.stderr)  # fmt: skip
    return ours


def latency(postfix: PostfixTools, database: Database, messages: int) -> None:
    with postfix.sink() as (port, _), delayed(port, DELAY_S) as slow:
        id = campaign(database, "latency", slow, messages)
        rate, _, _ = send(database, id, messages)
    measure.result("send.latency", "thousandths of a message per round trip and connection",
                   [rate * 2 * DELAY_S / CONNECTIONS * 1000], [1000.0])  # fmt: skip


def main() -> None:
    with tools() as postfix, measure.server() as server, tempfile.TemporaryDirectory() as folder:
        database = server.database()
        ours = compared(postfix, database, "smtp", MESSAGES) if {"smtp", "growth"} & set(LINES) else []
        for algorithm in ("ed25519", "rsa"):
            if f"dkim_{algorithm}" in LINES:
                key = Path(folder) / algorithm
                key.write_bytes(dkim.generate(algorithm))
                compared(postfix, database, f"dkim_{algorithm}", MESSAGES // 2, str(key))
        if "latency" in LINES:
            latency(postfix, database, CONNECTIONS * 500)
        if "growth" in LINES:
            with postfix.sink() as (port, _):
                grown, mb, _ = send(database, campaign(database, "growth", port, 10 * MESSAGES), 10 * MESSAGES)
            measure.result("send.growth", "messages/s", [grown], ours, peak_mb=mb)


if __name__ == "__main__":
    main()
