"""Whether documents fit together: what they name exists, in the files or in the database, and agrees."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress

import idna

from mailmill.pipelines.configuration.documents import Declared, Key, Problem
from mailmill.pipelines.configuration.sending import IdentitySpec
from mailmill.pipelines.configuration.specs import CampaignSpec
from mailmill.pipelines.configuration.words import TenantOwned

NAMED_BY_CAMPAIGN = ("segment", "identity", "transport")


def check(declared: Sequence[Declared], stored: Collection[Key]) -> list[Problem]:
    """Every reference that leads nowhere and every contradiction."""
    known = {*stored, *(one.key for one in declared)}
    return [problem for one in declared for problem in _problems(one, known)]


def _problems(one: Declared, known: Collection[Key]) -> Iterator[Problem]:
    spec = one.spec
    if isinstance(spec, TenantOwned) and ("tenant", spec.tenant, "") not in known:
        slugs = sorted(slug for kind, slug, _ in known if kind == "tenant")
        yield one.problem(f"tenant: there is no tenant {spec.tenant!r}; {_there_are(slugs)}", ("tenant",))
        return
    if isinstance(spec, CampaignSpec):
        yield from _campaign(one, spec, known)
    if isinstance(spec, IdentitySpec):
        yield from _identity(one, spec)


def _campaign(one: Declared, spec: CampaignSpec, known: Collection[Key]) -> Iterator[Problem]:
    content = "split" if spec.split else "template"
    named = [(kind, kind, getattr(spec, kind)) for kind in NAMED_BY_CAMPAIGN]
    for field, kind, slug in [*named, *((content, "template", slug) for slug in spec.shares)]:
        if (kind, spec.tenant, slug) not in known:
            slugs = sorted(last for found, tenant, last in known if found == kind and tenant == spec.tenant)
            yield one.problem(f"{field}: {spec.tenant} has no {kind} {slug!r}; {_there_are(slugs)}", (field,))
    if spec.start and spec.ends and spec.ends <= spec.start:
        yield one.problem("ends: has to be later than start", ("ends",))


def _identity(one: Declared, spec: IdentitySpec) -> Iterator[Problem]:
    """SPF counts for DMARC only when the return path's domain belongs to that of the From (RFC 7489 section 3.1.2).

    Without the public suffix list, belonging means: the same, or one of them below the other.
    """
    domain = _ascii(spec.from_address.rpartition("@")[2])
    other = spec.return_path_domain
    if domain is None:
        yield one.problem("from_address: its domain is no valid domain name", ("from_address",))
    elif domain != other and not domain.endswith(f".{other}") and not other.endswith(f".{domain}"):
        yield one.problem(
            f"return_path_domain: {other} is not aligned with the domain of from_address; "
            f"allowed: {domain} or a domain below or above it, such as bounce.{domain}",
            ("return_path_domain",),
        )
    for number, key in enumerate(spec.dkim):  # DMARC counts a signature only of the domain people see
        if domain is not None and domain != key.domain and not domain.endswith(f".{key.domain}"):
            yield one.problem(
                f"dkim[{number}].domain: {key.domain} does not sign for from_address; "
                f"allowed: {domain} or the domain it is below",
                ("dkim", number, "domain"),
            )


def _ascii(domain: str) -> str | None:
    with suppress(idna.IDNAError):
        return idna.encode(domain, uts46=True).decode().lower()
    return None


def _there_are(slugs: Iterable[str]) -> str:
    listed = ", ".join(slugs)
    return f"there are {listed}" if listed else "there is none yet"
