"""What `mailmill keys dkim` has to do: an identity's keys, made where they are missing, and their DNS records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import configuration
from mailmill.pipelines.configuration.sending import DkimSpec, IdentitySpec
from mailmill.pipelines.send import dkim


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A TXT record: its name and value, the reference of the key behind it, whether the key was made just now."""

    name: str
    value: str
    key: str
    made: bool


def published(mill: Installation, name: str) -> list[Published]:
    """The records of an identity.

    Raises: Misconfigured when there is no such identity, it names no key, or a key cannot be made or read.
    """
    tenant, _, slug = name.partition("/")
    with mill.database.transaction() as conn:
        found = configuration.stored(conn).get(("identity", tenant, slug))
    if found is None:
        raise Misconfigured(f"there is no identity {name!r}", remedy="Name it as tenant/identity, and apply it first.")
    spec = IdentitySpec.model_validate(dict(found.spec))
    if not any(one.key for one in spec.dkim):
        domain = spec.from_address.rpartition("@")[2]
        raise Misconfigured(
            f"the identity {name} names no DKIM key", place="dkim",
            remedy=f"Write `dkim: [{{selector: mm1, domain: {domain}, key: 'file:secrets/{slug}.pem'}}]`, apply it.",
        )  # fmt: skip
    return [_record(mill, one, one.key) for one in spec.dkim if one.key is not None]


def _record(mill: Installation, spec: DkimSpec, reference: str) -> Published:
    made = _make(mill, spec, reference)
    key = dkim.load(mill.secret(reference), place=reference)
    if dkim.algorithm_of(key) != spec.algorithm:
        raise Misconfigured(f"is a key for {dkim.algorithm_of(key)}, not {spec.algorithm}", place=reference)
    name = f"{spec.selector}._domainkey.{spec.domain}"
    return Published(name=name, value=dkim.record(key), key=reference, made=made)


def _make(mill: Installation, spec: DkimSpec, reference: str) -> bool:
    """Write a new key where there is no file yet, for its owner's eyes only. Out: whether it was."""
    scheme, _, file = reference.partition(":")
    path = mill.project / Path(file).expanduser()
    if scheme != "file" or path.exists():
        return False
    if not Path(file).expanduser().is_absolute() and not path.resolve().is_relative_to(mill.project.resolve()):
        raise Misconfigured("a relative path stays in the project folder", place=reference)
    pem = dkim.generate(spec.algorithm)  # which takes a while: an empty file would pass for a key from now on
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(pem)
                out.flush()
                os.fsync(out.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Misconfigured(f"cannot be written: {error.strerror}", place=reference) from None
    return True
