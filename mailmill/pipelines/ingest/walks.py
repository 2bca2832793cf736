"""A walk from an API's beginning, compared with what the API had given before: what it did not show is withdrawn."""

from __future__ import annotations

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest import withdrawals
from mailmill.pipelines.ingest.batches import batch_facts, named
from mailmill.pipelines.ingest.ports import BatchStore, ContactStore, SourceRow


def follow(source: SourceRow, store: BatchStore, contacts: ContactStore, *, force: bool) -> tuple[int, tuple[str, ...]]:
    """After a walk from the source's beginning, withdraw what it did not show. Out: how many contacts; what to say.

    A walk that waits for a person is not read again before the person has said so: it may hold all of an API.
    """
    if source.spec.on_delete != "withdraw":
        return 0, ()
    if not force and (asked := contacts.asked(source)):
        return 0, (_question(asked),)
    for _ in range(2):  # reading a large walk takes its time: once more, if another import was loaded meanwhile
        if (followed := _compared(source, store, contacts, force=force)) is not None:
            return followed
    note = "what the API has no more was not withdrawn, as other imports came in between: run this again with --force"
    return 0, (note,) if force else ()  # the others compared it, though without force


def _compared(
    source: SourceRow, store: BatchStore, contacts: ContactStore, *, force: bool
) -> tuple[int, tuple[str, ...]] | None:
    """As `follow`; None when more was loaded than this has read, and nobody was withdrawn."""
    walk = contacts.walk(source)
    if not walk:
        return 0, ()
    if gone := [batch for batch in walk if batch.state == "discarded"]:
        return 0, (
            f"what the API has no more cannot be seen: of a full read {named(gone)} was discarded; to compare it anew, "
            "run this again with --full",
        )
    if waiting := [batch.id for batch in walk if batch.state != "loaded"]:
        return 0, (f"what the API has no more is seen once batch {', '.join(map(str, waiting))} is loaded",)
    try:
        words = withdrawals.last_words((store.raw(source, batch), batch_facts(source, batch)) for batch in walk)
    except Misconfigured:  # the source's columns are others since; what was loaded stays loaded, and imports go on
        return 0, (
            "what the API has no more cannot be seen: some of its batches have other columns than the source names "
            "now; to compare it anew, run this again with --full",
        )
    share = 1.0 if force else withdrawals.MAX_ABSENT_SHARE
    outcome = contacts.withdraw_absent(source, walk, words.filter("there")["match_key"], max_share=share)
    if outcome is None:
        return None
    absent, done = outcome
    if done:
        return absent, ()
    return 0, (_question(absent),)


def _question(absent: int) -> str:
    return (
        f"a full read showed {absent:,} contacts no more, more than half of what the API had given: they stay; "
        "if it is meant, run this again with --force, else with --full once the API is right"
    )
