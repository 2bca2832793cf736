"""The demo's proof: what the relay logged against what the ledger says, recipient by recipient."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from mailmill.composition import Installation
from mailmill.io.postgres import accounts
from mailmill.pipelines.send.progress import TERMINAL
from mailmill.pipelines.send.tokens import verify
from mailmill.sandbox.rules import EVERYONE, read_rules

# How many times a relay may have taken a message in each terminal state. In doubt means that nobody knows; none more.
COPIES = {"sent": (1, 1), "in_doubt": (0, 1)}
# What the relay reported -> the events it must have become; distinct messages, so that a report twice counts once.
REPORTS = {
    "deliver": ("delivered",),
    "bounce_later": ("bounced_hard", "bounced_soft"),
    "complain": ("complained",),
    "unsubscribe": ("unsubscribed",),
}
LOG_SCHEMA = {
    "event": pl.String, "do": pl.String, "status": pl.Int64, "message_id": pl.String, "stage": pl.String,
    "code": pl.Int64, "taken": pl.Boolean, "recipient": pl.String, "mailmill_id": pl.String,
    "rule": pl.String,
}  # fmt: skip


def relay_log(path: Path, keys: dict[int, bytes]) -> pl.DataFrame:
    """Message id -> how many times the relay took it, how many of these it cut the line instead of answering, and for
    which recipients. The id is signed; it must be ours."""
    answers = pl.read_ndjson(path, schema=LOG_SCHEMA).filter((pl.col("event") == "answer") & pl.col("taken"))
    tokens = answers["mailmill_id"].unique().to_list()
    ours = {token: found.message if (found := verify(token, keys, "return_path")) else -1 for token in tokens}
    message = pl.col("mailmill_id").replace_strict(ours, return_dtype=pl.Int64)
    return answers.group_by(message=message).agg(
        copies=pl.len(), cut=(pl.col("code") == 0).sum(), recipients=pl.col("recipient").unique()
    )  # fmt: skip


def reports_missing(path: Path, keys: dict[int, bytes], mill: Installation) -> dict[str, int]:
    """Tenant/kind -> by how many messages the relay's reports differ from what was counted; empty when all came."""
    told = pl.read_ndjson(path, schema=LOG_SCHEMA).filter((pl.col("event") == "report") & (pl.col("status") == 200))
    with mill.database.transaction() as conn:
        slugs = dict(conn.execute("SELECT id, slug FROM tenants").fetchall())
        counted = {
            (slugs[tenant], kind): int(n)
            for tenant, kind, n in conn.execute("SELECT tenant_id, kind, sum(uniq) FROM counters GROUP BY 1, 2")
        }
    wrong = {}
    for do, kinds in REPORTS.items():
        said = dict.fromkeys(slugs.values(), 0)
        for message_id in told.filter(pl.col("do") == do)["message_id"].unique():
            token = verify(message_id.strip("<>").partition("@")[0], keys, "return_path")
            said[slugs[token.tenant] if token else ""] = said.get(slugs[token.tenant] if token else "", 0) + 1
        for tenant, n in said.items():
            if difference := n - sum(counted.get((tenant, kind), 0) for kind in kinds):
                wrong[f"{tenant}/{do}"] = difference
    return wrong


def compare(messages: pl.DataFrame, relay: pl.DataFrame) -> pl.DataFrame:
    """The recipients that are not accounted for, with the reason; empty when all is well.

    In: message, address, state of every row of the ledger.
    """
    low = pl.col("state").replace_strict({state: pair[0] for state, pair in COPIES.items()}, default=0)
    high = pl.col("state").replace_strict({state: pair[1] for state, pair in COPIES.items()}, default=0)
    both = messages.join(relay, on="message", how="full", coalesce=True).with_columns(pl.col("copies").fill_null(0))
    wrong_recipient = (pl.col("copies") > 0) & (
        (pl.col("recipients").list.len() != 1) | (pl.col("recipients").list.first() != pl.col("address"))
    )
    reason = (
        pl.when(pl.col("state").is_null()).then(pl.lit("the relay has a message that the ledger does not know"))
        .when(~pl.col("state").is_in(TERMINAL)).then(pl.lit("not in a terminal state"))
        .when(pl.col("copies") < low).then(pl.lit("called sent, but the relay did not take it"))
        .when(pl.col("copies") > high).then(pl.lit("the relay took it more often than the ledger says"))
        .when(wrong_recipient).then(pl.lit("it went to somebody else"))
    )  # fmt: skip
    return both.with_columns(reason=reason).filter(pl.col("reason").is_not_null())


def _messages(mill: Installation, campaign_id: int) -> pl.DataFrame:
    with mill.database.transaction() as conn:
        rows = conn.execute(
            "SELECT id, address, state::text FROM messages WHERE campaign_id = %s", (campaign_id,)
        ).fetchall()
    return pl.DataFrame(rows, schema={"message": pl.Int64, "address": pl.String, "state": pl.String}, orient="row")


def report(folder: Path, campaigns: Sequence[str], *, seconds: float) -> dict[str, Any]:
    """What the demo did, as report.json says it. `ok` only when every recipient of every campaign is accounted for."""
    mill = Installation()
    relay = relay_log(folder / "sandbox-log.jsonl", mill.signing_keys("return_path"))
    told: list[dict[str, Any]] = []
    known = 0
    for name in campaigns:
        with mill.database.transaction() as conn:
            campaign = accounts.campaign(conn, name)
            account = accounts.account(conn, campaign.id)
        messages = _messages(mill, campaign.id)
        mine = relay.join(messages, on="message", how="semi")
        known += mine.height
        unaccounted = compare(messages, mine).height + abs(account.unaccounted)
        tenant, _, slug = name.partition("/")
        told.append(
            {
                "tenant": tenant,
                "name": slug,
                "planned": account.planned,
                "by_state": account.by_state,
                "relay_accepted": int(mine["copies"].sum()),
                "relay_cut": int(mine["cut"].sum()),
                "unaccounted": unaccounted,
            }
        )
    strangers = relay.height - known  # taken by the relay, in no campaign's ledger
    contacts, events = _numbers(mill)
    missing = reports_missing(folder / "sandbox-log.jsonl", mill.signing_keys("return_path"), mill)
    # each message that was sent must have its event folded; and the events' numbers must be the ledger's
    sent = sum(campaign["by_state"].get("sent", 0) for campaign in told)
    return {
        "ok": not strangers
        and not missing
        and all(campaign["planned"] > 0 and not campaign["unaccounted"] for campaign in told)
        and events.get("accepted", 0) == sent,
        "seconds": round(seconds, 1),
        "contacts": contacts,
        "campaigns": told,
        "events": events,
        "reports_missing": missing,
    }


def _numbers(mill: Installation) -> tuple[dict[str, int], dict[str, int]]:
    with mill.database.transaction() as conn:
        raw, accepted, rejected, duplicates = conn.execute(
            "SELECT sum(rows_read), sum(rows_accepted), sum(rows_rejected), sum(duplicates_within + duplicates_across)"
            " FROM batches"
        ).fetchone() or (0, 0, 0, 0)
        events = dict(
            conn.execute("SELECT kind, sum(greatest(uniq, total)) FROM counters GROUP BY kind ORDER BY kind").fetchall()
        )
    contacts = {
        "raw": int(raw), "accepted": int(accepted), "rejected": int(rejected), "duplicates": int(duplicates)
    }  # fmt: skip
    return contacts, {kind: int(n) for kind, n in events.items()}


def show(report: dict[str, Any], folder: Path, places: dict[str, tuple[str, str]]) -> None:
    """One table a person can read, and where to go on."""
    console = Console(highlight=False, width=100)
    contacts = report["contacts"]
    console.print(
        f"\n{contacts['raw']:,} rows came in: {contacts['accepted']:,} accepted, {contacts['rejected']:,} rejected, "
        f"{contacts['duplicates']:,} duplicates"
    )
    table = Table(title="what became of every recipient", title_justify="left")
    table.add_column("")
    for campaign in report["campaigns"]:
        table.add_column(f"{campaign['tenant']}/{campaign['name']}", justify="right")
    states = sorted({state for campaign in report["campaigns"] for state in campaign["by_state"]})
    for label, value in [
        ("planned", lambda campaign: campaign["planned"]),
        *((state, lambda campaign, state=state: campaign["by_state"].get(state, 0)) for state in states),
        ("accepted, says the relay's log", lambda campaign: campaign["relay_accepted"]),
        ("of these cut off before its answer", lambda campaign: campaign["relay_cut"]),
        ("unaccounted for", lambda campaign: campaign["unaccounted"]),
    ]:
        table.add_row(label, *(f"{value(campaign):,}" for campaign in report["campaigns"]))
    console.print(table)
    if any(campaign["by_state"].get("in_doubt") for campaign in report["campaigns"]):
        console.print(
            "In doubt: the line broke after the message and before the answer, which this relay does to a few on\n"
            "purpose (`cut` in sandbox.yaml). From here nobody can know whether it was taken: see `mailmill doubts`.\n"
        )
    console.print("events: " + ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in report["events"].items()))
    verdict = "every recipient is accounted for" if report["ok"] else "NOT every recipient is accounted for"
    console.print(f"\n{verdict}, in {report['seconds']} s. The report: {folder / 'report.json'}", soft_wrap=True)
    console.print("\nGo on with `make up`, and open")
    for name, what in (
        ("dagster", "Dagster: assets, runs, checks"),
        ("stats", "the stats API (`mailmill key create`)"),
    ):
        console.print(f"  {places[name][0]:<28} {what}")
    console.print(f"  {folder / '.mailmill' / 'warehouse'}   DuckDB files", soft_wrap=True)


def reports_owed(log: Path, rules: Path) -> int:
    """How many reports of what it took the relay has still to make, by its rules and its own log."""
    follow = {rule.name: sum(effect.times for effect in rule.effects) for rule in (*read_rules(rules).rules, EVERYONE)}
    content = log.read_bytes()
    lines = pl.read_ndjson(content[: content.rindex(b"\n") + 1], schema=LOG_SCHEMA)  # it writes on meanwhile
    taken = lines.filter((pl.col("event") == "answer") & pl.col("taken"))
    made = lines.filter(pl.col("event").is_in(["report", "dropped"])).height
    return int(taken["rule"].replace_strict(follow).sum()) - made


def dumps(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=2) + "\n"
