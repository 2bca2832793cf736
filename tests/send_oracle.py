"""The one judge of sending: the ledger against what relays themselves wrote down. See faults.md, I1 to I5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from send_world import Sink, World

from mailmill.pipelines.send.progress import TERMINAL

EVENT_OF = {"sent": "accepted", "failed": "failed"}


def judge(
    world: World,
    campaigns: int | Sequence[int],
    sinks: Sink | Sequence[Sink],
    *,
    doubts: int | None = None,
    named: int | None = None,
    finished: bool = True,
    journal: Path | None = None,
) -> Counter[str]:
    """Everything that holds for any campaign after any fault. Out: the ledger by state.

    In: `doubts` is the most rows that may stand in doubt; `named` how many were, where some were settled since (else
    those that are); `finished` False for campaigns that were stopped: open rows are then fair, leased ones are not.
    Every recipient has one row in all campaigns together.
    """
    campaigns = [campaigns] if isinstance(campaigns, int) else campaigns
    sinks = [sinks] if isinstance(sinks, Sink) else sinks
    rows: dict[str, str] = {}
    for campaign in campaigns:
        world.account(campaign)  # adds up, or raises
        found = {address: state for address, (state, _, _) in world.rows(campaign).items()}
        assert not rows.keys() & found.keys(), "the oracle tells recipients apart by their address"
        rows |= found
        if finished:
            assert world.state(campaign) == "finished"
    states = Counter(rows.values())
    _ended(states, finished)
    taken = [one for sink in sinks for one in sink.taken]
    copies = Counter(one.recipient for one in taken)
    _sent(rows, copies)
    in_doubt = states["in_doubt"]
    assert doubts is None or in_doubt <= doubts, f"{in_doubt} in doubt"
    assert sum(copies.values()) - len(copies) <= (in_doubt if named is None else named), "I3: copies beyond the doubts"
    for recipient, n in copies.items():
        if n > 1:
            assert len({one.message_id for one in taken if one.recipient == recipient}) == 1, "another Message-ID"
    _told(world, states)
    _stopped(world, campaigns, sinks)
    assert not world.sql("SELECT token FROM leases")
    assert journal is None or not list(journal.rglob("*.j"))
    return states


def _ended(states: Counter[str], finished: bool) -> None:
    """I1: one terminal state each."""
    allowed = set(TERMINAL) if finished else {*TERMINAL, "queued", "deferred", "held"}
    assert states.keys() <= allowed, states


def _sent(rows: dict[str, str], copies: Counter[str]) -> None:
    """I2: a relay has what is called sent, and nothing that is called otherwise."""
    sent = {address for address, state in rows.items() if state == "sent"}
    may_be = sent | {address for address, state in rows.items() if state == "in_doubt"}
    assert sent <= copies.keys(), f"called sent, and no relay has it: {sorted(sent - copies.keys())[:5]}"
    assert copies.keys() <= may_be, f"a relay has it, called otherwise: {sorted(copies.keys() - may_be)[:5]}"


def _told(world: World, states: Counter[str]) -> None:
    """I4, the sender's part: one attempt and one event for each end, numbered without a gap."""
    events = world.events()
    assert len({event["event_id"] for event in events}) == len(events)
    for state, kind in EVENT_OF.items():
        ended = [event["message"] for event in events if event["kind"] == kind]
        assert len(ended) == len(set(ended)) == states[state], kind
    assert all(n == end for _, n, end in world.sql("SELECT part, count(*), max(off) + 1 FROM log GROUP BY part"))
    accepted = (
        "SELECT count(*), count(DISTINCT message_id) FROM attempts WHERE stage = 'dot' AND code BETWEEN 200 AND 299"
    )
    assert world.sql(accepted) == [(states["sent"], states["sent"])]


# From when until when nobody may be handed over: while a campaign is paused, once it is cancelled, from its end on, and
# who is suppressed. Times as time.time(), which is the server's clock too: it is this machine's.
STOPS = """
WITH steps AS (
  SELECT campaign_id, to_state, at, lead(at) OVER (PARTITION BY campaign_id ORDER BY id) AS next
    FROM campaign_transitions),
stops AS (
  SELECT campaign_id, NULL AS address_key, at, next AS until FROM steps WHERE to_state IN ('paused', 'cancelled')
  UNION ALL SELECT id, NULL, ends_at, NULL FROM campaigns WHERE ends_at IS NOT NULL
  UNION ALL SELECT c.id, s.address_key, s.created_at, s.expires_at
    FROM suppressions s JOIN campaigns c ON s.tenant_id IS NULL OR s.tenant_id = c.tenant_id
   WHERE s.scope_campaign_id IS NULL OR s.scope_campaign_id = c.id)
SELECT m.address, extract(epoch FROM s.at)::float8, coalesce(extract(epoch FROM s.until)::float8, 'infinity')
  FROM stops s
  JOIN messages m ON m.campaign_id = s.campaign_id AND (s.address_key IS NULL OR m.address_key = s.address_key)
 WHERE s.campaign_id = ANY(%s)
"""


def _stopped(world: World, campaigns: Sequence[int], sinks: Sequence[Sink]) -> None:
    """I5: nothing came later than one second after a pause, cancel or suppression, nor after the end.

    What a busy machine held up on its way to the relay meanwhile is added to the second.
    """
    handed: dict[str, list[tuple[float, Sink]]] = {}
    for sink in sinks:
        for at, to in sink.handed:
            handed.setdefault(to, []).append((at, sink))
    for address, since, until in world.sql(STOPS, list(campaigns)):
        late = [at - since for at, sink in handed.get(address, ())
                if since + 1.0 < at < until and since + 1.0 + sink.stalled_s(since, at) < at]  # fmt: skip
        assert late == [], f"I5: {address} was handed over {late} s after a stop"


def nothing_later(sinks: Sink | Sequence[Sink], committed: float, among: Collection[str] | None = None) -> None:
    """I5: no body came later than one second after a stop was committed. In: committed as time.time().

    What a busy machine held up on its way to the relay is not the worker's: it is added to the second.
    """
    sinks = [sinks] if isinstance(sinks, Sink) else sinks
    allowed = 1.0 + max(sink.stalled_s(committed) for sink in sinks)
    handed = [(at, to) for sink in sinks for at, to in sink.handed if among is None or to in among]
    late = [(at - committed, to) for at, to in handed if at > committed + allowed]
    assert late == []
