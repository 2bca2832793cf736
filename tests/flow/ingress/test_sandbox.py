"""The sandbox reports through the same public addresses as providers and people do."""

from __future__ import annotations

import contextlib
import json
import smtplib
import socket
from collections import Counter
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

from mailmill.io.event_log.postgres import PostgresEventLog
from mailmill.sandbox.reports import Webhook
from mailmill.sandbox.running import SandboxConfig, in_thread

PUBLIC = "https://mail.acme.example"  # what stands in messages; nobody is there
TAGS = ["accept", "bounce", "softbounce", "complain", "open", "click", "unsubscribe", "scanner"]


def a_message(world: Any, number: int) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = "news@acme.example"
    message["Message-ID"] = world.message_id(number)
    unsubscribe = f"{PUBLIC}/u/{world.token('unsubscribe', number)}"
    message["List-Unsubscribe"] = f"<{unsubscribe}>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content("text")
    html = f"""<a href="{PUBLIC}/c/{world.token("click", number, link=1)}">b</a> <a href="{unsubscribe}">no more</a>
    <img src="{PUBLIC}/o/{world.token("open", number)}">"""
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    return message.as_bytes()


def a_sandbox(tmp_path: Path, url: str) -> SandboxConfig:
    secret = "a-secret-of-the-test"
    return SandboxConfig(
        log=tmp_path / "log.jsonl", ingress=url,
        webhooks=(
            Webhook(path="beta/relay", secret=secret + "beta", senders=("*@bounce.beta.example",)),
            Webhook(path="acme/relay", secret=secret + "acme", senders=("*@bounce.acme.example",)),
        ),
    )  # fmt: skip


def send(world: Any, port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=120) as client:
        for number, tag in enumerate(TAGS, 1):
            sender = f"b+{world.token('return_path', number)}@bounce.acme.example"
            client.sendmail(sender, [f"p{number}+{tag}@x.example"], a_message(world, number))


def test_what_the_sandbox_does_arrives_as_events(ingress: Any, until: Any, tmp_path: Path) -> None:
    world = ingress.world
    with in_thread(a_sandbox(tmp_path, ingress.url)) as running:
        send(world, running.port)
        until(lambda: running.progress().waiting == 0)
    events = until(lambda: len(found := world.events()) >= 17 and found)
    kinds: dict[int, set[str]] = {number: set() for number in range(1, 9)}
    for event in events:
        kinds[event["message"]].add(event["kind"])
    assert kinds == {
        1: {"delivered"},
        2: {"bounced_hard"},
        3: {"bounced_soft"},
        4: {"delivered", "opened", "complained"},
        5: {"delivered", "opened"},
        6: {"delivered", "opened", "clicked"},
        7: {"delivered", "opened", "unsubscribed"},
        8: {"delivered", "machine_opened", "machine_clicked"},
    }
    assert world.suppressed() == [(1, "m7@acme", "unsubscribed")]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]
    reports = Counter((line["do"], line["status"]) for line in lines if line["event"] == "report")
    assert reports == {
        ("deliver", 200): 6, ("bounce_later", 200): 2, ("complain", 200): 1, ("open", 200): 5, ("click", 302): 2,
        ("unsubscribe", 200): 1,
    }  # fmt: skip


def test_the_sandbox_waits_for_an_ingress_that_comes_later(world: Any, until: Any, tmp_path: Path, serve: Any) -> None:
    with contextlib.ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.settimeout(60)
            port = silent.getsockname()[1]
            running = stack.enter_context(in_thread(a_sandbox(tmp_path, f"http://127.0.0.1:{port}")))
            send(world, running.port)
            silent.accept()[0].close()  # a report was tried
        log = stack.enter_context(contextlib.closing(PostgresEventLog(world.database, "ingress")))
        stack.enter_context(serve(log, port=port))
        until(lambda: running.progress().waiting == 0)
        until(lambda: len({(one["message"], one["kind"]) for one in world.events()}) == 17)
    attempts = [json.loads(line).get("attempts", 0) for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]
    assert max(attempts) > 1
