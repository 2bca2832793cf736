"""What the listener, a process of its own, keeps up to date and reports: Dagster shows it and never runs it."""

import datetime as dt

import dagster as dg

_FRESH = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=7), warn_window=dt.timedelta(days=1))

delivery_events = dg.AssetSpec(
    "delivery_events",
    group_name="listen",
    kinds={"kafka", "parquet"},
    owners=["team:operations"],
    deps=["deliveries"],
    description="Every sign of what became of a message: answers, webhooks, opens, clicks, unsubscribes. "
    "The listener reads the event log, writes each batch to the lake and lists it in the manifest.",
    freshness_policy=_FRESH,
)
statistics = dg.AssetSpec(
    "statistics",
    group_name="listen",
    kinds={"postgres"},
    owners=["team:operations"],
    deps=[delivery_events],
    description="Outcomes, engagement, suppressions and counters in PostgreSQL, folded exactly once from the events; "
    "the stats API answers from them.",
    freshness_policy=_FRESH,
)
ALL = [delivery_events, statistics]
