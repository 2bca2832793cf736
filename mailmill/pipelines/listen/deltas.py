"""What the ledger rows that changed add to everything that counts (fold.py says what counts as what)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mailmill.pipelines.listen.effects import Deltas
from mailmill.pipelines.listen.events import REPEATING
from mailmill.pipelines.listen.fold import FACTS, KEY

HOUR_S = 3600
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


def silent(messages: pl.DataFrame, returned: pl.DataFrame) -> Sequence[int]:
    """The ids of rows that did not come back: unchanged, or not in the ledger as the events say."""
    return messages.join(returned.select(KEY), on=KEY, how="anti")["message"].unique().to_list()


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
