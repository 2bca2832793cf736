"""Domains and what DNS says of their mail: states, how long an answer holds, when a domain is asked for again.

DNS is asked once for each domain and not for each address. What it said lies in PostgreSQL's table `domains`, which
holds names of domains and nothing about a person, and is joined where contacts are published or shown: a domain that
is looked up again changes no contact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol, get_args

import polars as pl

from mailmill.pipelines.ingest.providers import provider

State = Literal["mx", "implicit_mx", "null_mx", "not_found", "no_mail", "unknown"]
STATES: tuple[State, ...] = get_args(State)
DOMAINS_SCHEMA = pl.Schema(
    {
        "domain": pl.String(),
        "state": pl.String(),  # of STATES
        "provider": pl.String(),  # who runs its mailboxes, by its mail exchangers
        "changed_at": pl.Datetime("us", "UTC"),  # when state or provider last became another
    }
)
NO_MAIL: dict[str, str] = {  # states that make every address of the domain invalid -> the reason
    "null_mx": "domain_refuses_mail",
    "not_found": "domain_not_found",
    "no_mail": "domain_without_mail",
}
# An answer holds as long as its TTL says, within these. A name that is missing today may only have lapsed for a day.
SHORTEST, LONGEST, LONGEST_ABSENCE = timedelta(hours=1), timedelta(days=7), timedelta(days=1)
FIRST_RETRY, LAST_RETRY = timedelta(minutes=5), timedelta(days=1)
TRUSTED = timedelta(days=14)  # how long an old answer stands while DNS gives no new one
MOST_EXCHANGERS = 10  # kept of a domain


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What DNS said of one domain's mail."""

    domain: str
    state: State
    exchangers: tuple[str, ...] = ()  # host names, the preferred first
    ttl_s: int = 0
    problem: str | None = None  # why it is unknown: timeout, servfail, refused …


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain as it is kept."""

    domain: str
    state: State
    provider: str | None
    exchangers: tuple[str, ...]
    checked_at: datetime  # when DNS last gave an answer; for a state that is unknown, when it was last asked
    expires_at: datetime  # when it is to be asked again
    tries: int = 0  # how often in a row DNS gave no answer
    problem: str | None = None


class Resolver(Protocol):
    """Asks DNS where the mail of domains goes."""

    def lookup(self, domains: Sequence[str]) -> list[Answer]:
        """One answer a domain, in the same order. What does not answer in time is unknown; nothing is raised."""
        ...


def frame(found: Sequence[Domain]) -> pl.DataFrame:
    """DOMAINS_SCHEMA of some domains."""
    rows = [(one.domain, one.state, one.provider, one.checked_at) for one in found]
    return pl.DataFrame(rows, schema=DOMAINS_SCHEMA, orient="row")


def settled(before: Domain | None, answer: Answer, now: datetime) -> Domain:
    """The domain after an answer.

    No answer (time-out, SERVFAIL, REFUSED) leaves what was known for TRUSTED, and is asked for again after a pause
    that doubles each time.
    Source: RFC 2308 (negative answers), RFC 7505 (null MX), RFC 5321 5.1 (implicit MX), RFC 8767 (stale data).
    """
    if answer.state != "unknown":
        return Domain(
            domain=answer.domain, state=answer.state, provider=provider(answer.exchangers),
            exchangers=answer.exchangers[:MOST_EXCHANGERS], checked_at=now, expires_at=now + _lifetime(answer),
        )  # fmt: skip
    tries = (before.tries if before else 0) + 1
    again = now + min(FIRST_RETRY * 2 ** min(tries - 1, 20), LAST_RETRY)
    if before is not None and before.state != "unknown" and now - before.checked_at < TRUSTED:
        return Domain(
            domain=before.domain, state=before.state, provider=before.provider, exchangers=before.exchangers,
            checked_at=before.checked_at, expires_at=again, tries=tries, problem=answer.problem,
        )  # fmt: skip
    return Domain(
        domain=answer.domain, state="unknown", provider=None, exchangers=(), checked_at=now, expires_at=again,
        tries=tries, problem=answer.problem,
    )  # fmt: skip


def _lifetime(answer: Answer) -> timedelta:
    longest = LONGEST_ABSENCE if answer.state in NO_MAIL else LONGEST
    return min(max(timedelta(seconds=answer.ttl_s), SHORTEST), longest)
