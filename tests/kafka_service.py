"""One real Kafka broker for all test processes of this clone. A broker that cannot start fails the tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from mailmill.errors import StoreUnavailable
from mailmill.io.event_log.kafka_topics import create_topic
from mailmill.io.event_log.postgres import TOPIC

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "kafka.sh"


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Its address, host:port. MAILMILL_TEST_KAFKA_URL names one that is there already."""
    if named := os.environ.get("MAILMILL_TEST_KAFKA_URL"):
        AdminClient({"bootstrap.servers": named}).list_topics(timeout=60)
        yield named
        return
    clone = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"mailmill-tests-{os.geteuid()}-{clone}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(folder / "door", "w") as door, open(folder / "users", "w") as users:
        with _locked(door):  # the first starts it while the others wait; who finds it takes it
            if _alone(users):  # what is there is of tests that were killed: their topics would be taken for ours
                _end(folder)
            fcntl.flock(users, fcntl.LOCK_SH)  # as long as this process lives
            address = _kafka_sh(folder, "start")
        yield address
        with _locked(door):
            fcntl.flock(users, fcntl.LOCK_UN)
            if _alone(users):
                _end(folder)


@pytest.fixture
def own_kafka(kafka: str) -> str:
    """Its address, for an installation that has no topic of its own: the usual one is not there yet.

    Another installation's events in it would be of other messages under the same numbers.
    """
    admin = AdminClient({"bootstrap.servers": kafka})
    for deleted in admin.delete_topics([TOPIC]).values():
        try:
            deleted.result(60)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return kafka


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic of this test alone, as production creates it."""
    name, deadline = f"t-{uuid4().hex}", time.monotonic() + 120
    while True:
        try:
            create_topic(kafka, name)
            return name
        except StoreUnavailable:  # a broker that has just begun, on a busy machine
            if time.monotonic() > deadline:
                raise


@contextmanager
def _locked(door: IO[str]) -> Iterator[None]:
    fcntl.flock(door, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(door, fcntl.LOCK_UN)


def _alone(users: IO[str]) -> bool:
    """Whether no other test process uses the broker."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(folder: Path) -> None:
    for verb in ("kill", "wipe"):
        _kafka_sh(folder, verb)


def _kafka_sh(folder: Path, verb: str) -> str:
    environment = {**os.environ, "KAFKA_DIR": str(folder / "kafka")}
    # at first it is downloaded
    done = subprocess.run([SCRIPT, verb], env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode:
        pytest.fail(f"{SCRIPT} {verb}: {done.stderr.strip()}", pytrace=False)
    return done.stdout.strip()
