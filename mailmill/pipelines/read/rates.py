"""Counts and rates from what the counters hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mailmill.pipelines.read.answers import Counts, Machine, Rate, Rates, Repeated

Row = tuple[str, int, int]  # kind, distinct messages, distinct events


def counts(rows: Iterable[Row]) -> Counts:
    """Rows of counters, several of a kind added up; a kind without a row is 0.

    Adding up is right because the counters hold each message's first time only: no message is in two hours.
    """
    uniq: dict[str, int] = {}
    total: dict[str, int] = {}
    for kind, messages, events in rows:
        uniq[kind] = uniq.get(kind, 0) + messages
        total[kind] = total.get(kind, 0) + events

    def repeated(kind: str) -> Repeated:
        return Repeated(messages=uniq.get(kind, 0), events=total.get(kind, 0))

    return Counts(
        accepted=uniq.get("accepted", 0),
        failed=uniq.get("failed", 0),
        deferred_attempts=total.get("deferred", 0),
        delivered=uniq.get("delivered", 0),
        bounced_soft=uniq.get("bounced_soft", 0),
        bounced_hard=uniq.get("bounced_hard", 0),
        complained=uniq.get("complained", 0),
        unsubscribed=uniq.get("unsubscribed", 0),
        replied=uniq.get("replied", 0),
        forwarded=uniq.get("forwarded", 0),
        opened=repeated("opened"),
        clicked=repeated("clicked"),
        machine=Machine(opened=repeated("machine_opened"), clicked=repeated("machine_clicked")),
    )


def rate(numerator: int, denominator: int, of: str) -> Rate:
    value = round(numerator / denominator, 6) if denominator else None
    return Rate(numerator=numerator, denominator=denominator, of=of, value=value)


def rates(counted: Counts, planned: int | None = None) -> Rates:
    """The rates of a campaign (`planned` recipients), or of a tenant, whose answers are all that can be compared.

    Reports of delivery come from some relays only, so reactions are shares of what was accepted.
    """
    base, of = (counted.accepted + counted.failed, "answered") if planned is None else (planned, "planned")

    def accepted_share(messages: int) -> Rate:
        return rate(messages, counted.accepted, "accepted")

    return Rates(
        accepted=rate(counted.accepted, base, of),
        failed=rate(counted.failed, base, of),
        delivered=accepted_share(counted.delivered),
        bounced_soft=accepted_share(counted.bounced_soft),
        bounced_hard=accepted_share(counted.bounced_hard),
        complained=accepted_share(counted.complained),
        unsubscribed=accepted_share(counted.unsubscribed),
        replied=accepted_share(counted.replied),
        opened=accepted_share(counted.opened.messages),
        clicked=accepted_share(counted.clicked.messages),
    )
