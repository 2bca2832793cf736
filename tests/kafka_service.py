"""One real Kafka broker for all test processes of this clone. A broker that cannot start fails the tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from mailmill.io.event_log.kafka_topics import create_topic

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
    ours = f"{os.getpid()} {psutil.Process().create_time()}"
    with _users(folder) as users:  # the first starts it while the others wait; who finds it takes it
        address = _kafka_sh(folder, "start")
        users.add(ours)
    yield address
    with _users(folder) as users:
        users.discard(ours)
        if not users:
            _kafka_sh(folder, "kill")
            _kafka_sh(folder, "wipe")


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic of this test alone, as production creates it."""
    name = f"t-{uuid4().hex}"
    create_topic(kafka, name)
    return name


@contextmanager
def _users(folder: Path) -> Iterator[set[str]]:
    """The test processes that use the broker, under a lock; those that were killed are dropped."""
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / "users"
        users = set(file.read_text().splitlines()) if file.exists() else set()
        users = {user for user in users if _lives(user)}
        try:
            yield users
        finally:
            file.write_text("\n".join(sorted(users)))


def _lives(user: str) -> bool:
    pid, started = user.split()
    try:
        return psutil.Process(int(pid)).create_time() == float(started)
    except psutil.NoSuchProcess:
        return False


def _kafka_sh(folder: Path, verb: str) -> str:
    environment = {**os.environ, "KAFKA_DIR": str(folder / "kafka")}
    done = subprocess.run([SCRIPT, verb], env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.fail(f"{SCRIPT} {verb}: {done.stderr.strip()}", pytrace=False)
    return done.stdout.strip()
