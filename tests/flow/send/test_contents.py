"""A campaign whose identity has keys: what the relay takes is signed, and no recipient gets another's content."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

from send_world import HTML, TEXT, Sink, World

from mailmill.io.send_worker import run_worker
from mailmill.pipelines.send import dkim


def test_every_message_is_signed_and_holds_its_recipients_variant(world: World, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(dkim.generate("ed25519"))
    parts = [{"subject": f"{name} {{{{ name }}}}", "html": HTML, "text": TEXT, "links": [0]} for name in ("A", "B")]
    signing = [{"selector": "mm1", "domain": "acme.example", "key": f"file:{key}", "algorithm": "ed25519"}]
    with Sink(keep_bodies=True) as sink:
        campaign = world.campaign(6, port=sink.port, variants=parts, dkim=signing)
        world.sql("UPDATE messages SET variant = mod(id, 2)")
        run_worker(
            world.database,
            tmp_path / "journal",
            lambda reference: Path(reference.removeprefix("file:")).read_text(),
            until_idle=True,
            patience_s=0.0,
        )
    assert world.account(campaign) == {"sent": 6}
    variants = dict(world.sql("SELECT address, variant FROM messages"))
    for taken in sink.taken:
        message = message_from_bytes(taken.body, policy=default)
        assert "d=acme.example; s=mm1" in " ".join(str(message["DKIM-Signature"]).split())
        assert message["Subject"] == ("A Anna", "B Anna")[variants[taken.recipient]]


def test_a_key_that_cannot_be_read_stops_its_campaign_and_says_so(world: World, run: Callable[..., Any]) -> None:
    signing = [{"selector": "mm1", "domain": "acme.example", "key": "env:NO_SUCH_KEY", "algorithm": "rsa"}]
    with Sink() as sink:
        campaign = world.campaign(2, port=sink.port, dkim=signing)
        report = run().report
    assert not sink.taken and world.account(campaign) == {"queued": 2}
    assert "NO_SUCH_KEY" in str(report.problems)
