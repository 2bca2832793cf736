"""Fixtures of the tests of sending, whatever folder they are in."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from send_process import end_all
from send_world import World

from mailmill.io.postgres.database import Database
from mailmill.io.send_worker import WorkerResult, run_worker
from mailmill.pipelines.send.calls import Report
from mailmill.pipelines.send.loop import Sender

Run = Callable[..., WorkerResult]


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    yield World(database)
    end_all()


@pytest.fixture
def run(world: World, tmp_path: Path) -> Run:
    """Run a worker in this process until it is idle, or `until` something holds, which is asked about once a second."""

    def run(*, until: Callable[[], object] | None = None, **terms: object) -> WorkerResult:
        settings = {"until_idle": until is None, "patience_s": 0.0, "grace_s": 5.0, **terms}
        if until is not None:
            settings |= _stopped_by(until)
        done = run_worker(world.database, tmp_path / "journal", lambda reference: "secret", **settings)  # type: ignore[arg-type]
        assert done.report.ended != "out of time", "what the worker was to go on for did not come"
        return done

    return run


def _stopped_by(until: Callable[[], object]) -> dict[str, object]:
    """Terms of a worker that stops when this holds."""
    senders: list[Sender] = []

    @contextmanager
    def watch(name: str, sender: Sender) -> Iterator[None]:
        senders.append(sender)
        yield

    def look(report: Report) -> None:  # within the worker's loop
        if not report.ended and until():
            senders[0].stop("enough")

    return {"watch": watch, "progress": look, "max_s": 120.0}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate of its own making for `localhost`, and the file that makes it trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sink.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"
