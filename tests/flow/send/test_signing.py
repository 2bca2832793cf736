"""Signed campaigns: every message on the wire carries a signature that holds, made beside the connections."""

from __future__ import annotations

from pathlib import Path

import dkim as verifier
import pytest
from send_fixtures import Run
from send_world import Sink, World

from mailmill.io.send_worker import run_worker
from mailmill.pipelines.send import dkim


@pytest.mark.parametrize("algorithm", ["rsa", "ed25519"])
def test_every_message_of_a_signed_campaign_verifies(world: World, tmp_path: Path, algorithm: dkim.Algorithm) -> None:
    pem = dkim.generate(algorithm).decode()
    record = dkim.record(dkim.load(pem, place="test")).encode()
    with Sink(keep_bodies=True) as sink:
        keys = [{"domain": "acme.example", "selector": "m1", "key": "file:key"}]
        campaign = world.campaign(100, port=sink.port, dkim=keys)
        run_worker(world.database, tmp_path / "journal", lambda reference: pem, until_idle=True, patience_s=0.0)
    assert world.account(campaign) == {"sent": 100}
    assert set(sink.copies.values()) == {1} and len(sink.taken) == 100
    for one in sink.taken:
        body = one.body.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
        assert verifier.verify(body, dnsfunc=lambda name, timeout=0: record), one.recipient


def test_what_a_pause_finds_signed_already_is_not_sent(world: World, run: Run) -> None:
    with Sink() as sink:
        campaign = world.campaign(50, port=sink.port, state="paused", dkim=[])
        run()
    assert world.account(campaign) == {"queued": 50} and not sink.taken
