"""The sandbox as SMTP clients see it: smtplib, and sockets that pipeline as our sender does."""

from __future__ import annotations

import json
import smtplib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailmill.errors import Misconfigured
from mailmill.sandbox.running import Running, SandboxConfig, in_thread

BODY = b"From: a@acme.example\r\nMessage-ID: <%s@b.example>\r\nX-Mailmill-Id: %s\r\n\r\n..dots\r\n.\xc3\xa9\r\nend.\r\n"


class Box:
    def __init__(self, running: Running, log: Path) -> None:
        self.running, self.port, self._log = running, running.port, log

    def lines(self, event: str = "answer") -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self._log.read_bytes().splitlines()]
        return [line for line in found if line["event"] == event]

    def send(self, recipient: str, name: bytes = b"m1") -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=120) as client:
            client.sendmail("b+tok@bounce.acme.example", [recipient], BODY % (name, name))

    def raw(self) -> tuple[socket.socket, Callable[[], str]]:
        """A connection behind EHLO, and what reads one reply (its last line)."""
        link = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        file = link.makefile("rb")

        def reply() -> str:
            while True:
                line = file.readline().decode()
                if line[3:4] != "-":
                    return line.rstrip("\r\n")

        assert reply().startswith("220")
        link.sendall(b"EHLO x\r\n")
        assert reply().startswith("250")
        return link, reply


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    log = tmp_path / "log.jsonl"
    with in_thread(SandboxConfig(log=log)) as running:
        yield Box(running, log)


def envelope(recipient: str, sender: str = "b+tok@bounce.acme.example") -> bytes:
    return f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()


def stuffed(name: bytes) -> bytes:
    return (BODY % (name, name)).replace(b"\r\n.", b"\r\n..") + b".\r\n"


def test_the_usual_extensions_are_offered(box: Box) -> None:
    with smtplib.SMTP("127.0.0.1", box.port, timeout=120) as client:
        client.ehlo()
        assert {"pipelining", "8bitmime", "size", "smtputf8", "enhancedstatuscodes"} <= client.esmtp_features.keys()


def test_a_message_is_taken_and_written_down_before_the_answer(box: Box) -> None:
    box.send("ann+accept@x.example")
    (line,) = box.lines()
    assert (line["code"], line["stage"], line["taken"], line["copies"]) == (250, "dot", True, 1)
    assert (line["message_id"], line["mailmill_id"]) == ("<m1@b.example>", "m1")
    assert (line["recipient"], line["sender"]) == ("ann+accept@x.example", "b+tok@bounce.acme.example")
    assert line["bytes"] == len(BODY % (b"m1", b"m1"))
    box.send("ann+accept@x.example")
    assert [line["copies"] for line in box.lines()] == [1, 2]


def test_envelopes_behind_the_final_dot_are_answered_in_order(box: Box) -> None:
    link, reply = box.raw()
    with link:
        link.sendall(envelope("p0+accept@x.example"))
        for number in range(50):
            assert [reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            link.sendall(stuffed(b"m%d" % number) + envelope(f"p{number + 1}+accept@x.example"))
            assert reply() == "250 2.0.0 taken"
    assert [line["recipient"] for line in box.lines()] == [f"p{number}+accept@x.example" for number in range(50)]


def test_a_refused_recipient_in_a_pipeline_refuses_DATA_and_the_next_envelope_goes_on(box: Box) -> None:
    link, reply = box.raw()
    with link:
        link.sendall(envelope("ann+reject@x.example") + b"RSET\r\n" + envelope("bob+accept@x.example"))
        assert [reply()[:3] for _ in range(7)] == ["250", "550", "503", "250", "250", "250", "354"]
        link.sendall(stuffed(b"m2") + b"QUIT\r\n")
        assert [reply()[:3] for _ in range(2)] == ["250", "221"]
    assert [(line["stage"], line["code"], line["taken"]) for line in box.lines()] == [
        ("rcpt", 550, False),
        ("dot", 250, True),
    ]


def test_a_body_in_single_bytes_arrives_whole(box: Box) -> None:
    link, reply = box.raw()
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with link:
        link.sendall(envelope("ann+accept@x.example"))
        assert [reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        for byte in stuffed(b"m1"):
            link.sendall(bytes([byte]))
        assert reply().startswith("250")
    assert box.lines()[0]["bytes"] == len(BODY % (b"m1", b"m1"))


def test_a_large_message_is_taken_and_one_that_is_too_large_is_not(box: Box) -> None:
    line = b"x" * 76 + b"\r\n"
    link, reply = box.raw()
    with link:
        for size, code in ((10_000_000, "250"), (27_000_000, "552"), (100, "250")):
            link.sendall(envelope("ann+accept@x.example"))
            assert [reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            link.sendall(b"Message-ID: <a@b>\r\n\r\n" + line * (size // len(line)) + b".\r\n")
            assert reply()[:3] == code


def test_a_line_longer_than_mail_may_have_is_refused(box: Box) -> None:
    link, reply = box.raw()
    with link:
        link.sendall(envelope("ann+accept@x.example"))
        assert [reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        link.sendall(b"x" * 999 + b"\r\n.\r\n")
        assert reply().startswith("500")


def test_a_deferred_message_is_taken_at_its_next_attempt_and_another_one_is_deferred_first(box: Box) -> None:
    for name, sender in ((b"m1", "b+one@bounce.example"), (b"m2", "b+two@bounce.example")):
        with smtplib.SMTP("127.0.0.1", box.port, timeout=120) as client:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                client.sendmail(sender, ["ann+defer@x.example"], BODY % (name, name))
            assert refused.value.recipients["ann+defer@x.example"][0] == 451
            client.sendmail(sender, ["ann+defer@x.example"], BODY % (name, name))
    assert [line["code"] for line in box.lines()] == [451, 250, 451, 250]


def test_a_refusal_after_the_dot_names_its_message(box: Box) -> None:
    with pytest.raises(smtplib.SMTPDataError):
        box.send("ann+spam@x.example")
    assert [(line["stage"], line["code"], line["message_id"]) for line in box.lines()] == [
        ("dot", 554, "<m1@b.example>")
    ]


@pytest.mark.parametrize(("tag", "taken"), [("drop", True), ("lost", False)])
def test_F03_a_link_cut_after_the_dot_is_written_down_with_what_is_true(box: Box, tag: str, taken: bool) -> None:
    with pytest.raises(smtplib.SMTPServerDisconnected):
        box.send(f"ann+{tag}@x.example")
    assert [(line["stage"], line["code"], line["taken"]) for line in box.lines()] == [("dot", 0, taken)]


def test_a_hanging_answer_holds_up_its_own_connection_only(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "rules:\n- {match: slow@*, hang: {seconds: 0.5, stage: dot}}\n"
        "- {match: long@*, hang: {seconds: 600, stage: dot}}\n"
    )
    with in_thread(SandboxConfig(log=tmp_path / "log.jsonl", rules=rules)) as running:
        box = Box(running, tmp_path / "log.jsonl")
        link, reply = box.raw()
        with link:
            link.sendall(envelope("long@x.example"))
            assert [reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            link.sendall(b"Message-ID: <m0@b.example>\r\n\r\nhello\r\n.\r\n")
            box.send("quick@x.example")
            began = time.monotonic()
            box.send("slow@x.example", b"m2")
            assert time.monotonic() - began >= 0.5
            link.setblocking(False)
            with pytest.raises(BlockingIOError):
                link.recv(1)
    said = {line["recipient"]: (line["code"], line["taken"]) for line in box.lines()}
    assert said == {"quick@x.example": (250, True), "slow@x.example": (250, True), "long@x.example": (0, False)}


def test_a_port_that_is_taken_and_rules_that_are_wrong_are_said(tmp_path: Path, box: Box) -> None:
    config = SandboxConfig(log=tmp_path / "other.jsonl", port=box.port)
    with pytest.raises(Misconfigured, match="cannot listen"), in_thread(config):
        pass
    with (
        pytest.raises(Misconfigured, match="cannot be read"),
        in_thread(SandboxConfig(log=config.log, rules=tmp_path / "none.yaml")),
    ):
        pass
    with pytest.raises(Misconfigured, match="loopback"), in_thread(SandboxConfig(log=config.log, host="0.0.0.0")):
        pass
