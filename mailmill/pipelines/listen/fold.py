"""The fold: what a batch of events says about each message, and what the changed ledger rows add to what counts.

Everything stored is a function of the set of distinct events: first times are least(), links a bit each, what may
repeat is remembered by key, engagement is greatest(), and counters move by the difference the ledger row made.
So neither order nor repetition matters.

What counts as what: messages for every kind but `deferred`, by the hour of the first time; distinct event ids too
(`total`) for opened and clicked, the machines' included. `deferred` counts attempts, that is event ids, in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mailmill.pipelines.listen.bounces import HARD
from mailmill.pipelines.listen.effects import Deltas
from mailmill.pipelines.listen.events import KINDS, REPEATING, Kind

# kinds with a column at_<kind> in the ledger, in the order of the columns; deferrals may be many and have none
FACTS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "deferred")
OTHER_LINK = 62  # the bit of every link beyond it, and of a click that names none
HOUR_S = 3600
# engagement's columns and the kinds they follow
LAST: dict[str, tuple[Kind, ...]] = {
    "last_accepted": ("accepted",),
    "last_delivered": ("delivered",),
    "last_opened": ("opened",),
    "last_clicked": ("clicked",),
    "last_bounced": ("bounced_soft", "bounced_hard"),
}
_KEY = ["message", "tenant", "campaign"]

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
# what the ledger gives back of a row that changed: its times, links and keys before; `full` has its keys after, where
# no further key fits into the row
RETURNED_SCHEMA = pl.Schema(
    {
        "message": pl.Int64(),
        "tenant": pl.Int32(),
        "campaign": pl.Int32(),
        "domain": pl.String(),
        "address_key": pl.String(),
        **{f"old_{kind}": pl.Int32() for kind in FACTS},
        "old_links": pl.Int64(),
        "old_keys": pl.String(),
        "full": pl.String(),
    }
)


def group(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events of a batch -> what each message has to learn, and what is remembered by key.

    In:     decode.EVENT_SCHEMA.
    Out:    MESSAGES_SCHEMA, sorted by message: index and table are walked in order; REPEATING_SCHEMA, distinct.
    """
    facts = events.select(
        *_KEY,
        "event_id",
        "kind",
        t=pl.col("at").dt.epoch("s").cast(pl.Int32),
        link=pl.col("link").fill_null(OTHER_LINK).clip(0, OTHER_LINK).cast(pl.Int16),
        reason=_suppression_reason(),
    )
    repeating = _repeating(facts)
    keys = repeating.group_by(_KEY).agg(
        keys=pl.concat_str(pl.lit("{"), pl.col("key").cast(pl.String).str.join(","), pl.lit("}")),
        suppresses=pl.col("reason").is_not_null().any(),
    )
    messages = _messages(facts, set(events["kind"].unique())).join(keys, on=_KEY, how="left")
    return (
        messages.with_columns(pl.col("suppresses").fill_null(False)).match_to_schema(MESSAGES_SCHEMA).sort("message"),
        repeating.match_to_schema(REPEATING_SCHEMA, extra_columns="ignore"),
    )


def _suppression_reason() -> pl.Expr:
    """The reason for which this event suppresses its address, null for most.

    The class decides, whether the refusal came in the session (failed) or later (bounced_hard): P20.
    """
    kind = pl.col("kind").cast(pl.String)
    refused = kind.is_in(["bounced_hard", "failed"]) & pl.col("reason").is_in(sorted(HARD))
    return pl.when(kind.is_in(["complained", "unsubscribed"])).then(kind).when(refused).then(pl.lit("bounced"))


def _repeating(facts: pl.DataFrame) -> pl.DataFrame:
    """Distinct by message and key: 56 bits of the event's id, and the kind in the last four."""
    kept = facts.filter(pl.col("kind").is_in(REPEATING) | pl.col("reason").is_not_null())
    bits = pl.col("event_id").str.slice(0, 14).str.to_integer(base=16, dtype=pl.Int64)
    return (
        kept.with_columns(key=bits * 16 + pl.col("kind").to_physical().cast(pl.Int64))
        .sort("t")
        .unique([*_KEY, "key"], keep="first", maintain_order=True)
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
        facts.select(*_KEY, *columns, links=pl.when(kind == "clicked").then(bit).otherwise(0))
        .group_by(_KEY)
        .agg(
            pl.col(*(f"at_{name}" for name in FACTS)).min(),
            pl.col(*LAST).max(),
            pl.col("links").bitwise_or(),
        )
    )


def silent(messages: pl.DataFrame, returned: pl.DataFrame) -> Sequence[int]:
    """The ids of rows that did not come back: unchanged, or not in the ledger as the events say."""
    return messages.join(returned.select(_KEY), on=_KEY, how="anti")["message"].unique().to_list()


def fresh(repeating: pl.DataFrame, returned: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What was not remembered before, told apart by where it is remembered from now on.

    Out: (in its ledger row, to be remembered in table seen_overflow, which tells what is new), both of
         REPEATING_SCHEMA with tenant, campaign, domain, address_key.
    """
    named = repeating.join(
        returned.select("message", "tenant", "campaign", "domain", "address_key", "full"), on="message"
    ).join(_keys(returned, "old_keys"), on=["message", "key"], how="anti")
    roomy = named.filter(pl.col("full").is_null()).drop("full")
    crowded = named.filter(pl.col("full").is_not_null()).drop("full")
    if crowded.is_empty():
        return roomy, crowded
    after = _keys(returned, "full")
    return (
        pl.concat([roomy, crowded.join(after, on=["message", "key"], how="semi")]),
        crowded.join(after, on=["message", "key"], how="anti"),
    )


def _keys(returned: pl.DataFrame, column: str) -> pl.DataFrame:
    """message, key: one row for each key in this column (numbers separated by spaces)."""
    held = returned.filter(pl.col(column).is_not_null() & (pl.col(column) != ""))
    return (
        held.select("message", key=pl.col(column).str.split(" "))
        .explode("key")
        .with_columns(pl.col("key").cast(pl.Int64))
    )


def deltas(messages: pl.DataFrame, returned: pl.DataFrame, new: pl.DataFrame) -> Deltas:
    """What a batch adds.

    In:     messages: MESSAGES_SCHEMA; returned: RETURNED_SCHEMA, the rows that changed; new: of `fresh`.
    """
    changed = returned.join(messages.drop("tenant", "campaign"), on="message")
    firsts = _first_times(changed)
    return Deltas(
        counters=_counters(firsts, new),
        links=_links(changed, new),
        domains=_domains(firsts, new),
        suppressions=new.filter(pl.col("reason").is_not_null())
        .sort("tenant", "address_key", "reason", "t", "event_id")
        .unique(["tenant", "address_key", "reason"], keep="first", maintain_order=True)
        .select("tenant", "address_key", "reason", "event_id"),
    )


def _first_times(changed: pl.DataFrame) -> pl.DataFrame:
    """Each fact whose first time is new or earlier than known: `old` null or later than `t`."""
    parts = []
    for kind in FACTS:
        t, old = pl.col(f"at_{kind}"), pl.col(f"old_{kind}")
        parts.append(
            changed.filter(t.is_not_null() & (old.is_null() | (t < old))).select(
                "tenant", "campaign", "domain", kind=pl.lit(kind), t=t, old=old
            )
        )
    return pl.concat(parts)


def _counters(firsts: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """A message that turns out to be earlier moves from one hour to the other, so hours do not depend on order."""
    keys = ["tenant", "campaign", "kind", "hour"]
    moved = firsts.filter(pl.col("old").is_not_null())
    return _tally(
        keys,
        pl.concat(
            [
                firsts.select(*keys[:3], hour=pl.col("t") // HOUR_S, n=pl.lit(1, pl.Int64)),
                moved.select(*keys[:3], hour=pl.col("old") // HOUR_S, n=pl.lit(-1, pl.Int64)),
            ]
        ),
        _repeats(new).with_columns(hour=pl.col("t") // HOUR_S),
    )


def _domains(firsts: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    first = firsts.filter(pl.col("old").is_null()).with_columns(n=pl.lit(1, pl.Int64))
    return _tally(["tenant", "domain", "kind"], first, _repeats(new))


def _links(changed: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    clicks = _repeats(new).filter(pl.col("kind") == "clicked")
    bit = pl.lit(2, pl.Int64).pow(pl.col("link").cast(pl.Int64)).cast(pl.Int64)
    first = (
        clicks.unique(["message", "link"])
        .join(changed.select("message", "old_links"), on="message")
        .filter((pl.col("old_links") & bit) == 0)
    )
    keys = ["tenant", "campaign", "link"]
    return _tally(keys, first.with_columns(n=pl.lit(1, pl.Int64)), clicks, kind="clicked")


def _repeats(new: pl.DataFrame) -> pl.DataFrame:
    return new.filter(pl.col("kind").is_in(REPEATING)).with_columns(pl.col("kind").cast(pl.String))


def _tally(keys: list[str], firsts: pl.DataFrame, repeats: pl.DataFrame, *, kind: str | None = None) -> pl.DataFrame:
    """Sums by key. Of a kind that cannot repeat the total is the number of messages; deferrals count in both."""
    name = pl.lit(kind) if kind else pl.col("kind")
    one, none = pl.lit(1, pl.Int64), pl.lit(0, pl.Int64)
    rows = pl.concat(
        [
            firsts.select(*keys, uniq="n", total=pl.when(name.is_in(REPEATING)).then(none).otherwise(pl.col("n"))),
            repeats.select(*keys, uniq=pl.when(name == "deferred").then(one).otherwise(none), total=one),
        ]
    )
    sums = rows.group_by(keys).agg(pl.col("uniq", "total").sum())
    return sums.filter((pl.col("uniq") != 0) | (pl.col("total") != 0)).sort(keys)
