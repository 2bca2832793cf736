"""The requirements on a message (mail.md, M1 to M13), asked of what a relay was handed over a socket."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.policy import default as policy
from pathlib import Path

import dkim as verifier
from send_world import HTML, TEXT, Sink, World

from mailmill.io.postgres import keys
from mailmill.io.send_worker import run_worker
from mailmill.pipelines.send import dkim, tokens

NAME = "Zoë <b>Ørsted</b>, Jr."
ONCE = ("From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "List-Unsubscribe", "List-Unsubscribe-Post",
        "List-Id", "Feedback-ID", "DKIM-Signature", "X-Mailmill-Id", "X-Sort")  # fmt: skip


def handed_over(world: World, tmp_path: Path, pem: str) -> tuple[bytes, list[str]]:
    """One message as the relay has it, and the commands it came with."""
    with Sink(keep_bodies=True, offers=["DSN", "SIZE 100000"]) as sink:
        world.campaign(
            ["ann@example.org"], port=sink.port, names=[NAME], transport={"dsn": True}, headers={"X-Sort": "a"},
            dkim=[{"domain": "acme.example", "selector": "m1", "key": "file:key"}],
            unsubscribe_mailbox="leave@acme.example",
            variants=[{"subject": "Grüße an {{ name }}, " * 6, "html": HTML, "text": TEXT, "links": [0]}],
        )  # fmt: skip
        run_worker(world.database, tmp_path / "journal", lambda reference: pem, until_idle=True, patience_s=0.0)
    return sink.taken[0].body.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n."), sink.lines


def test_M1_to_M13_what_a_relay_is_handed_is_what_bulk_mail_has_to_be(world: World, tmp_path: Path) -> None:
    pem = dkim.generate("rsa").decode()
    record = dkim.record(dkim.load(pem, place="test")).encode()
    body, commands = handed_over(world, tmp_path, pem)
    message = message_from_bytes(body, policy=policy)
    with world.database.transaction() as conn:
        secrets = {purpose: keys.usable(conn, purpose) for purpose in ("tracking", "unsubscribe", "return_path")}

    # M1: each once, one From of the domain that signs, an FQDN on the right of the Message-ID, To the one recipient
    assert {name: len(message.get_all(name, [])) for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert message["From"].addresses[0].domain == "acme.example" and message["To"] == "ann@example.org"
    assert message["Message-ID"].endswith("@bounce.acme.example>")
    # M2: text first, HTML last, lines of at most 78 octets, CRLF only, nothing but ASCII
    parts = list(message.iter_parts())
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
    assert message.get_content_type() == "multipart/alternative"
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", body) and body.isascii()
    lines = body.split(b"\r\n")
    assert max(map(len, lines[lines.index(b"") :])) <= 78 and max(map(len, lines)) <= 998
    # M3: a subject beyond ASCII comes back as it was, in encoded-words of at most 75 characters
    assert message["Subject"].strip() == (f"Grüße an {NAME}, " * 6).strip()
    words = re.findall(rb"=\?[^?\s]+\?[BQbq]\?[^?\s]*\?=", body.split(b"\r\n\r\n")[0])
    assert len(words) > 1 and max(map(len, words)) <= 75
    # M4, M6, M13: one https, one mailto, the pair of RFC 8058, a visible link; by a key that signs nothing else
    leave = re.fullmatch(r"<https://t\.acme\.example/u/([\w-]+)>,\s*<mailto:leave@acme\.example\?subject=unsubscribe%20(.+)>",
                         message["List-Unsubscribe"])  # fmt: skip
    assert leave is not None and leave[1] == leave[2]
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert tokens.verify(leave[1], secrets["unsubscribe"], "unsubscribe") is not None
    assert tokens.verify(leave[1], secrets["tracking"], "unsubscribe") is None
    assert all(f"https://t.acme.example/u/{leave[1]}" in part.get_content() for part in parts)
    # M7
    assert message["List-Id"] == "<spring.acme.example>" and re.fullmatch(
        r"\d+:\d+:bulk:mailmill", message["Feedback-ID"]
    )
    # M8: both headers of unsubscribing are signed, From twice, no l=, the final bytes
    signature = re.sub(r"\s", "", message["DKIM-Signature"])
    signed = re.search(r";h=([^;]+)", signature)
    assert signed is not None and signed[1].lower().split(":").count("from") == 2
    assert {"list-unsubscribe", "list-unsubscribe-post", "message-id", "subject"} <= set(signed[1].lower().split(":"))
    assert ";l=" not in signature and "a=rsa-sha256" in signature and "c=relaxed/relaxed" in signature
    assert verifier.verify(body, dnsfunc=lambda name, timeout=0: record)
    # M9, M11: a signed return path below the From domain, the same token in Message-ID and X-Mailmill-Id, DSN
    (mail,), (rcpt,) = ([line for line in commands if line.startswith(verb)] for verb in ("MAIL", "RCPT"))
    token = message["X-Mailmill-Id"]
    assert mail.startswith(f"MAIL FROM:<b+{token}@bounce.acme.example>") and f"RET=HDRS ENVID=b+2B{token}" in mail
    assert rcpt == "RCPT TO:<ann@example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;ann@example.org"
    assert message["Message-ID"] == f"<{token}@bounce.acme.example>"
    assert tokens.verify(token, secrets["return_path"], "return_path") is not None
    # M10: an operator's header stands as it is, a value in the body is text there and no markup
    assert message["X-Sort"] == "a" and "Bcc" not in message
    assert NAME in parts[0].get_content() and "Zoë &lt;b&gt;Ørsted&lt;/b&gt;, Jr." in parts[1].get_content()
    # M12: the link leads through us, by a token that cannot unsubscribe
    click = re.search(r"https://t\.acme\.example/c/([\w-]+)", parts[1].get_content())
    assert click is not None and tokens.verify(click[1], secrets["tracking"], "click") is not None
    assert tokens.verify(click[1], secrets["unsubscribe"], "unsubscribe") is None
