"""Validation again of what is pending or old: domains whose answer ran out, contacts that older rules examined.

Everything is done in slices, each stored before the next begins. After a kill the same again asks DNS for the domains
that are left, and examines the contacts from the first one on, of which what is right by then stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import polars as pl

from mailmill.pipelines.ingest import addresses
from mailmill.pipelines.ingest.domains import Answer, Resolver

ASKED_TOGETHER = 1_000  # domains
EXAMINED_TOGETHER = 50_000  # contacts
HELD_SCHEMA = pl.Schema(
    {"contact_id": pl.Int64(), "email": pl.String(), "verdict": pl.String(), "verdict_reason": pl.String()}
)


class DomainStore(Protocol):
    """Keeps what DNS said."""

    def due(self, tenant_id: int, now: datetime) -> list[str]:
        """Domains of the tenant's contacts that are new, or whose answer has run out."""
        ...

    def settle(self, answers: Sequence[Answer], now: datetime) -> int:
        """Keep answers in one transaction. Out: how many domains are new or have become other."""
        ...


class HeldStore(Protocol):
    """The addresses of contacts, and what was thought of them."""

    def outdated(self, tenant_id: int, rules: str) -> bool:
        """Whether the tenant's contacts were last examined by other rules than these."""
        ...

    def held(self, tenant_id: int, after: int, limit: int) -> pl.DataFrame:
        """The next contacts with an address, by id. Out: HELD_SCHEMA, in order of contact_id."""
        ...

    def correct(self, tenant_id: int, changed: pl.DataFrame) -> int:
        """Give contacts another verdict, in one transaction. In: HELD_SCHEMA. Out: how many changed."""
        ...

    def finish(self, tenant_id: int, rules: str) -> None:
        """All contacts of the tenant have been examined by these rules."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Revalidated:
    """What validating again came to."""

    asked_dns: bool  # false: no resolver is set
    domains_asked: int = 0
    domains_changed: int = 0  # new, or with another state or provider than before
    states: Mapping[str, int] = field(default_factory=dict)  # of the answers
    problems: Mapping[str, int] = field(default_factory=dict)  # why domains are unknown
    contacts_examined: int = 0
    contacts_changed: int = 0


def revalidate(
    tenant_id: int,
    *,
    domains: DomainStore,
    contacts: HeldStore,
    resolver: Resolver | None,
    now: Callable[[], datetime],
    progress: Callable[[str], None],
) -> Revalidated:
    """Examine what older rules examined, then ask DNS for what is due."""
    examined, corrected = _examine_again(tenant_id, contacts, progress)
    states: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    changed = 0
    due = domains.due(tenant_id, now()) if resolver else []
    for names in _batched(due, ASKED_TOGETHER):
        assert resolver is not None
        answers = resolver.lookup(names)
        changed += domains.settle(answers, now())
        states.update(answer.state for answer in answers)
        problems.update(answer.problem for answer in answers if answer.problem)
        progress(f"asked DNS for {states.total():,} of {len(due):,} domains")
    return Revalidated(
        asked_dns=resolver is not None, domains_asked=states.total(), domains_changed=changed,
        states=dict(states.most_common()), problems=dict(problems.most_common()),
        contacts_examined=examined, contacts_changed=corrected,
    )  # fmt: skip


def _examine_again(tenant_id: int, store: HeldStore, progress: Callable[[str], None]) -> tuple[int, int]:
    """(contacts examined, contacts whose verdict changed)."""
    rules = addresses.rules_version()
    examined = changed = 0
    if not store.outdated(tenant_id, rules):
        return 0, 0
    after = -1
    while (held := store.held(tenant_id, after, EXAMINED_TOGETHER)).height:
        changed += store.correct(tenant_id, differing(held))
        examined += held.height
        after = int(held["contact_id"][-1])
        progress(f"examined {examined:,} contacts, {changed:,} of them with another verdict than before")
    store.finish(tenant_id, rules)
    return examined, changed


def differing(held: pl.DataFrame) -> pl.DataFrame:
    """Contacts of which today's rules think otherwise, with what they think. In/Out: HELD_SCHEMA."""
    today = addresses.examine(held["email"]).select("verdict", "verdict_reason")
    other = ~(today["verdict"].eq_missing(held["verdict"]) & today["verdict_reason"].eq_missing(held["verdict_reason"]))
    return held.with_columns(today).filter(other)


def _batched(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]
