"""DKIM: another implementation verifies what we sign, whatever the message, and nothing that was changed since."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default as policy
from typing import Any

import dkim as verifier
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.errors import Misconfigured
from mailmill.pipelines.send import dkim, mime
from mailmill.pipelines.send.messages import Composer, DkimKey, Outgoing, SigningKeys
from mailmill.pipelines.send.tokens import Key

KEYS = {algorithm: dkim.load(dkim.generate(algorithm).decode(), place="test") for algorithm in ("rsa", "ed25519")}
DATE = mime.date(datetime(2026, 11, 20, 10, 0, tzinfo=UTC))
FOOT = "{{ postal_address }} {{ unsubscribe_url }}"


def a_composer(*algorithms: str, **changed: Any) -> Composer:
    parts = {
        "subject": "Hi {{ first }}",
        "html": "<p>Hello {{ first }}</p>" + FOOT,
        "text": "Hello {{ first }}\n" + FOOT,
    }
    content = {
        "merge_fields": ["first"],
        "variants": [{name: changed.pop(name, source) for name, source in parts.items()} | {"links": []}],
        "from_name": "Harbor, Café", "from_address": "news@harbor.example", "reply_to": "help@harbor.example",
        "return_path_domain": "bounce.harbor.example", "list_id": "spring.harbor.example", "postal_address": "1 Quay",
        "tenant_name": "Harbor", "public_url": "https://t.example", "links": [],
        "unsubscribe_mailbox": "leave@harbor.example", "headers": {"X-Campaign": "spring  sale"}, **changed,
    }  # fmt: skip
    keys = SigningKeys(tracking=Key(1, b"t" * 32), unsubscribe=Key(2, b"u" * 32), return_path=Key(3, b"r" * 32))
    signing = [DkimKey(domain="harbor.example", selector=name, key=KEYS[name]) for name in algorithms]
    return Composer(content, tenant=7, campaign=8, keys=keys, dkim_keys=signing)


def compose(composer: Composer, first: str = "Anna", address: bytes = b"anna@example.org") -> Outgoing:
    return composer.compose(9, address, [first.encode()], DATE)


class _VerifyKey:
    """What dkimpy asks of PyNaCl, which it does without for RSA only: Ed25519 itself."""

    def __init__(self, key: bytes, encoder: object) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(b64decode(key))

    def verify(self, signed: bytes, signature: bytes) -> None:
        try:
            self._key.verify(signature, signed)
        except InvalidSignature as wrong:
            raise _Nacl.exceptions.BadSignatureError from wrong


class _Nacl:
    class signing:
        VerifyKey = _VerifyKey

    class encoding:
        Base64Encoder = None

    class exceptions:
        BadSignatureError = type("BadSignatureError", (Exception,), {})
        ValueError = ValueError


@pytest.fixture(autouse=True, scope="module")
def ed25519() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifier, "nacl", _Nacl, raising=False)
        yield


def published(name: bytes, timeout: float = 5) -> bytes:
    """DNS, as we ask an operator to fill it in."""
    selector = name.split(b".")[0].decode()
    assert name.rstrip(b".") == f"{selector}._domainkey.harbor.example".encode()
    return dkim.record(KEYS[selector]).encode()


def verified(content: bytes, signature: int = 0) -> bool:
    try:
        return bool(verifier.DKIM(content).verify(idx=signature, dnsfunc=published))
    except verifier.DKIMException:
        return False


texts = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=200)
bodies = st.text(st.sampled_from(" \n\r.\tab=é€😀"), max_size=300) | st.text(
    st.characters(exclude_categories=("Cs",)), max_size=300
)


@settings(max_examples=120, deadline=None)
@given(texts, texts, texts, bodies)
def test_another_implementation_verifies_any_message(subject: str, name: str, first: str, body: str) -> None:
    plain = "".join(c for c in body if c not in "{}\0\x1f")  # Jinja2 has its own tests
    clean = "".join(c for c in subject if c not in "{}")
    composer = a_composer("ed25519", subject=clean or "x", from_name=name, text=plain + FOOT + plain, html=FOOT + plain)
    content = compose(composer, first).content
    assert verified(content)
    body_bytes = content.split(b"\r\n\r\n", 1)[1]
    relaxed = re.sub(rb"[ \t]+", b" ", re.sub(rb"[ \t]+\r\n", b"\r\n", body_bytes)).rstrip(b"\r\n") + b"\r\n"
    assert body_bytes == relaxed  # so that its hash may be taken as it is


@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "x \n y  z\t\n", "long " * 400, "a" * 2000, ".\n..\n"])
@pytest.mark.parametrize("algorithms", [("rsa",), ("ed25519",), ("rsa", "ed25519")], ids=str)
def test_both_algorithms_verify_alone_and_together(algorithms: tuple[str, ...], text: str) -> None:
    content = compose(a_composer(*algorithms, text=text + FOOT, html=FOOT + text)).content
    assert content.count(b"DKIM-Signature:") == len(algorithms)
    assert all(verified(content, number) for number in range(len(algorithms)))
    assert max(map(len, content.split(b"\r\n"))) <= 120


@pytest.mark.parametrize("address", [b'"quoted  local"@example.org', b"a" * 64 + b"@" + b"b" * 60 + b".example"])
def test_an_odd_address_is_signed_as_it_stands(address: bytes) -> None:
    assert verified(compose(a_composer("ed25519"), address=address).content)


def test_M8_what_has_to_be_signed_is_and_from_is_over_signed() -> None:
    content = compose(a_composer("ed25519")).content
    signature = str(message_from_bytes(content, policy=policy)["DKIM-Signature"])
    listed = re.sub(r"\s", "", signature).split("h=")[1].split(";")[0].split(":")
    assert listed.count("from") == 2
    assert {name.lower() for name in dkim.SIGNED} == set(listed)
    assert re.sub(r"\s", "", signature).startswith("v=1;a=ed25519-sha256;c=relaxed/relaxed;d=harbor.example;s=ed25519;")
    assert "t=1795168800;" in signature and "l=" not in signature.replace("rel=", "")
    added = content.replace(b"\r\nTo:", b"\r\nFrom: evil@evil.example\r\nTo:", 1)
    assert not verified(added)


@pytest.mark.parametrize("header", dkim.SIGNED)
def test_a_changed_header_or_body_does_not_verify(header: str) -> None:
    content = compose(a_composer("ed25519")).content
    assert verified(content)
    assert not verified(content.replace(f"\r\n{header}: ".encode(), f"\r\n{header}: x".encode(), 1))
    assert not verified(content.replace(b"Hello", b"Hallo", 1))


def test_relays_that_refold_and_recase_leave_it_valid() -> None:
    content = compose(a_composer("ed25519", subject="Many words " * 12 + "end")).content
    head, body = content.split(b"\r\n\r\n", 1)
    unfolded = re.sub(rb"\r\n[ \t]+", b"  ", head).replace(b"Subject:", b"SUBJECT: ")
    assert verified(unfolded + b"\r\n\r\n" + body + b"\r\n\r\n")


def test_a_key_is_loaded_from_pem_and_nothing_else_is_a_key() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for wrong in ("", "secret words", small.private_bytes(*form).decode()):
        with pytest.raises(Misconfigured) as refused:
            dkim.load(wrong, place="file:secrets/key.pem")
        assert "file:secrets/key.pem" in str(refused.value) and "secret words" not in str(refused.value)
    assert {dkim.algorithm_of(key) for key in KEYS.values()} == {"rsa", "ed25519"}
