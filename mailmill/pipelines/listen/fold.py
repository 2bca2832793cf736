"""The fold: what a batch of events says about each message. What that adds to the numbers: deltas.py.

Everything stored is a function of the set of distinct events: first times are least(), links a bit each, what may
repeat is remembered by key, engagement is greatest(), and counters move by the difference the ledger row made.
So neither order nor repetition matters.

What counts as what: messages for every kind but `deferred`, by the hour of the first time; distinct event ids too
(`total`) for opened and clicked, the machines' included. `deferred` counts attempts, that is event ids, in both.
"""

from __future__ import annotations

import polars as pl

from mailmill.pipelines.listen.bounces import HARD
from mailmill.pipelines.listen.events import KINDS, REPEATING, Kind

# kinds with a column at_<kind> in the ledger, in the order of the columns; deferrals may be many and have none
FACTS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "deferred")
OTHER_LINK = 62  # the bit of every link beyond it, and of a click that names none
# engagement's columns and the kinds they follow
LAST: dict[str, tuple[Kind, ...]] = {
    "last_accepted": ("accepted",),
    "last_delivered": ("delivered",),
    "last_opened": ("opened",),
    "last_clicked": ("clicked",),
    "last_bounced": ("bounced_soft", "bounced_hard"),
}
KEY = ["message", "tenant", "campaign"]

# one row per message as the events name it, by id: what the ledger row has to learn. `keys` is a PostgreSQL array
MESSAGES_SCHEMA = pl.Schema(
    {
        "message": pl.Int64(),
        "tenant": pl.Int32(),
        "campaign": pl.Int32(),
        **{f"at_{kind}": pl.Int32() for kind in FACTS},
        "links": pl.Int64(),
        "keys": pl.String(),
        "suppresses": pl.Boolean(),
        **{name: pl.Int32() for name in LAST},
    }
)
# one row per thing that is remembered by its key: what may repeat, and what suppresses
REPEATING_SCHEMA = pl.Schema(
    {
        "message": pl.Int64(),
        "kind": pl.Enum(KINDS),
        "key": pl.Int64(),
        "t": pl.Int32(),
        "link": pl.Int16(),
        "reason": pl.String(),
        "event_id": pl.String(),
    }
)


def group(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events of a batch -> what each message has to learn, and what is remembered by key.

    In:     decode.EVENT_SCHEMA.
    Out:    MESSAGES_SCHEMA, sorted by message: index and table are walked in order; REPEATING_SCHEMA, distinct.
    """
    facts = events.select(
        *KEY,
        "event_id",
        "kind",
        t=pl.col("at").dt.epoch("s").cast(pl.Int32),
        link=pl.col("link").fill_null(OTHER_LINK).clip(0, OTHER_LINK).cast(pl.Int16),
        reason=_suppression_reason(),
    )
    repeating = _repeating(facts)
    keys = repeating.group_by(KEY).agg(
        keys=pl.concat_str(pl.lit("{"), pl.col("key").cast(pl.String).str.join(","), pl.lit("}")),
        suppresses=pl.col("reason").is_not_null().any(),
    )
    messages = _messages(facts, set(events["kind"].unique())).join(keys, on=KEY, how="left")
    return (
        messages.with_columns(pl.col("suppresses").fill_null(False)).match_to_schema(MESSAGES_SCHEMA).sort("message"),
        repeating.match_to_schema(REPEATING_SCHEMA, extra_columns="ignore"),
    )


def _suppression_reason() -> pl.Expr:
    """The reason for which this event suppresses its address, null for most.

    The class decides, whether the refusal came in the session (failed) or later (bounced_hard): P20. Whoever reports
    a bounce says hard or soft; of a failure only a 5xx is hard, since one may also fail by the last of many 4xx.
    """
    kind = pl.col("kind").cast(pl.String)
    hard = (kind == "bounced_hard") | ((kind == "failed") & (pl.col("code") >= 500).fill_null(False))
    refused = hard & pl.col("reason").is_in(sorted(HARD))
    return pl.when(kind.is_in(["complained", "unsubscribed"])).then(kind).when(refused).then(pl.lit("bounced"))


def _repeating(facts: pl.DataFrame) -> pl.DataFrame:
    """Distinct by message and key: 56 bits of the event's id, and the kind in the last four."""
    kept = facts.filter(pl.col("kind").is_in(REPEATING) | pl.col("reason").is_not_null())
    bits = pl.col("event_id").str.slice(0, 14).str.to_integer(base=16, dtype=pl.Int64)
    return (
        kept.with_columns(key=bits * 16 + pl.col("kind").to_physical().cast(pl.Int64))
        .sort("t")
        .unique([*KEY, "key"], keep="first", maintain_order=True)
    )


def _messages(facts: pl.DataFrame, kinds: set[str]) -> pl.DataFrame:
    """First and last times and links of each message. Columns of kinds that do not occur are null."""
    kind, t = pl.col("kind"), pl.col("t")
    columns = [
        pl.when(kind == name).then(t).alias(f"at_{name}")
        if name in kinds
        else pl.lit(None, pl.Int32).alias(f"at_{name}")
        for name in FACTS
    ] + [
        pl.when(kind.is_in(names)).then(t).alias(column) if kinds & set(names) else pl.lit(None, pl.Int32).alias(column)
        for column, names in LAST.items()
    ]
    bit = pl.lit(2, pl.Int64).pow(pl.col("link").cast(pl.Int64)).cast(pl.Int64)
    return (
        facts.select(*KEY, *columns, links=pl.when(kind == "clicked").then(bit).otherwise(0))
        .group_by(KEY)
        .agg(
            pl.col(*(f"at_{name}" for name in FACTS)).min(),
            pl.col(*LAST).max(),
            pl.col("links").bitwise_or(),
        )
    )
