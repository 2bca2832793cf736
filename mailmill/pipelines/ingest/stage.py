"""The stage ingest: receive -> validate -> load -> publish. Each step takes up what an earlier one left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import polars as pl

from mailmill.errors import Misconfigured, SourceUnavailable, at
from mailmill.pipelines.ingest import outcomes, validation, walks
from mailmill.pipelines.ingest.batches import batch_facts, named, rules_of, too_many_rejected, with_known
from mailmill.pipelines.ingest.columns import changed, mapped
from mailmill.pipelines.ingest.duplicates import Buckets
from mailmill.pipelines.ingest.generations import Published
from mailmill.pipelines.ingest.outcomes import Loaded, Received, Validated
from mailmill.pipelines.ingest.ports import (
    BatchRow,
    BatchStore,
    ContactStore,
    Feed,
    Load,
    LoadCounts,
    RawBatch,
    RawStore,
    Refusal,
    ReportingFeed,
    SourceRow,
)

Progress = Callable[[str], None]
TOLD_EVERY = 500_000  # rows of one batch


def _silent(message: str) -> None:
    return None


def receive(
    source: SourceRow,
    feed: Feed,
    store: RawStore,
    *,
    accept_columns: bool = False,
    discard: Sequence[int] = (),
    progress: Progress = _silent,
) -> Received:
    """Keep what the source has to say, batch by batch; what it said before is recognised and adds nothing.

    A batch whose columns do not say where an address is, is refused before anything of it is kept. One whose columns
    are not those of the last time is reported and, where the source says `on_change: hold`, kept and not taken in,
    until its columns are accepted or the source's mapping is another.
    In:     discard, ids of batches that wait for a person, who says that they are wrong.
    Out:    what came, also where the source then failed: an API that gives a part of itself an hour may never end.
    Raises: SourceUnavailable when there is nothing to go on with; Misconfigured when a person has to act first, or the
            source was deleted.
    """
    new: list[int] = []
    refused: list[Refusal] = []
    notes: list[str] = []
    known = rows = 0
    if isinstance(feed, ReportingFeed):
        feed.report_to(progress)
    with store.importing(source) as (source, cursor):
        if discard:
            gone = named(store.discard(source, discard))
            notes.append(f"discarded {gone}: kept, and not taken in before {_taken_in(source, 'BATCH')}")
        if released := store.release(source, accept=accept_columns):
            progress(f"let in {released} batches that were held")
        columns, usual = store.columns(source)
        given = _Given(feed.batches(cursor))
        for said in given:
            if isinstance(said, RawBatch) and said.usual is not None:
                said = with_known(said, columns, usual)
            outcome = said if isinstance(said, Refusal) else _refusal(source, said)
            if outcome is not None:
                refused.append(outcome)
                progress(f"refused {outcome.origin}")  # why, says who called
                continue
            assert isinstance(said, RawBatch)
            surprise = changed(columns, said.table.columns)
            hold = surprise is not None and source.spec.on_change == "hold" and not accept_columns
            try:
                table = replace(said.table, frames=_told(said.table.frames, f"reading {said.origin}", progress))
                with at(said.origin):
                    kept = store.keep(source, replace(said, table=table), surprise=surprise, hold=hold)
            except Misconfigured as error:
                if said.cursor is not None:
                    raise
                refused.append(Refusal(origin=said.origin, message=str(error)))
                progress(f"refused {said.origin}")
                continue
            if not kept.rows and said.cursor is None:  # an answer, and one that a person should not overlook
                notes.append(f"{said.origin}: the file {_emptiness(said)}")
            notes += [f"{said.origin}: {note}" for note in (*said.notes, *said.table.notes)]
            if kept.discarded:
                after_all = _taken_in(source, kept.batch_id)
                notes.append(f"{said.origin}: the same was discarded; {after_all} takes it in after all")
            if not kept.new:
                known += 1
                continue
            new.append(kept.batch_id)
            rows += kept.rows
            notes += [f"{said.origin}: {surprise}"] if surprise else []
            progress(f"{'held' if hold else 'received'} {said.origin}: {kept.rows:,} row{'s' * (kept.rows != 1)}")
            if said.table.columns and not hold:
                columns, usual = said.table.columns, said.table.columns if said.usual is None else said.usual
        held = tuple(store.held(source))
    if given.broken_off is not None:
        if not (new or released or discard):
            raise given.broken_off
        progress("the source broke off; what had come is taken in")
    return Received(
        batches=tuple(new), known=known, rows=rows, refused=tuple(refused), held=held, notes=tuple(notes),
        broken_off=given.broken_off,
    )  # fmt: skip


class _Given:
    """What a source gives, until it breaks off."""

    def __init__(self, batches: Iterable[RawBatch | Refusal]) -> None:
        self._batches = batches
        self.broken_off: SourceUnavailable | None = None

    def __iter__(self) -> Iterator[RawBatch | Refusal]:
        try:
            yield from self._batches
        except SourceUnavailable as error:
            self.broken_off = error


def _told(frames: Iterable[pl.DataFrame], what: str, progress: Progress) -> Iterator[pl.DataFrame]:
    """The frames, and every TOLD_EVERY rows a word of how many there were."""
    rows = told = 0
    for frame in frames:
        yield frame
        rows += frame.height
        if rows - told >= TOLD_EVERY:
            told = rows
            progress(f"{what}: {rows:,} rows so far")


def _taken_in(source: SourceRow, batch: int | str) -> str:
    return f"`mailmill ingest {source.name} --again --batch {batch}`"


def _emptiness(batch: RawBatch) -> str:
    return "has a header and no rows" if batch.table.columns else "is empty"


def _refusal(source: SourceRow, batch: RawBatch) -> Refusal | None:
    if not batch.table.columns:  # empty: there is nothing to lose
        return None
    try:
        mapped(batch.table.columns, source.spec.columns, place=batch.origin, few=batch.few)
    except Misconfigured as error:
        if batch.cursor is not None:
            raise
        return Refusal(origin=batch.origin, message=str(error))
    return None


def validate(source: SourceRow, store: BatchStore, *, progress: Progress = _silent) -> Validated:
    """Divide every raw batch of the source into accepted and rejected rows, and anew what waits to be loaded and was
    divided by other rules than those of today. One that the source's columns cannot read is held; the others go on."""
    return _validated(source, store, store.batches(source, "raw"), progress) + _renewed(source, store, progress)


def validate_again(
    source: SourceRow,
    store: BatchStore,
    *,
    rejected: bool = False,
    batch_id: int | None = None,
    progress: Progress = _silent,
) -> Validated:
    """Divide again, by the rules of today, every batch that is kept and was not discarded, or this one even so;
    rejected: those with rejected rows. `load` then puts what they say now in the place of what they said.

    A batch whose columns the source does not name any more stays as it was loaded, with a note: another one had them.
    """
    again = [
        batch
        for batch in store.batches(source, None)
        if batch.state not in ("held", "removed", *(() if batch_id else ("discarded",)))
        and batch_id in (None, batch.id)
        and (not rejected or (batch.refused and batch.state != "raw"))
    ]
    return _validated(source, store, again, progress)


def _renewed(source: SourceRow, store: BatchStore, progress: Progress) -> Validated:
    rules = rules_of(source)
    old = [batch for batch in store.batches(source, "validated") if batch.rules != rules]
    return _validated(source, store, old, progress)


def _validated(source: SourceRow, store: BatchStore, batches: Iterable[BatchRow], progress: Progress) -> Validated:
    done: list[int] = []
    reasons: Counter[str] = Counter()
    notes: list[str] = []
    held: list[str] = []
    sample: list[dict[str, object]] = []
    read = accepted = 0

    def watched(pieces: Iterable[validation.Checked], origin: str) -> Iterator[validation.Checked]:
        for piece in pieces:
            notes.extend(f"{origin}: {note}" for note in piece.notes)
            sample.extend(outcomes.sample(piece.accepted, 5 - len(sample)) if len(sample) < 5 else [])
            yield piece

    for batch in batches:
        try:
            with at(named([batch])), store.spool(source) as spool:
                buckets = Buckets(spool, rows=batch.rows_read)
                raw = _told(store.raw(source, batch), f"validating {batch.origin}", progress)
                pieces = validation.divided(raw, batch_facts(source, batch), buckets)
                recorded = store.record(source, batch, watched(pieces, batch.origin))
        except Misconfigured as error:
            if store.hold(source, batch):
                held.append(str(error))
                progress(f"held {batch.origin}: {error.message}")
            else:
                notes.append(f"left as it is: {error}")
            continue
        if recorded is None:
            continue  # another process validated it
        done.append(batch.id)
        read += recorded.accepted + recorded.rejected
        accepted += recorded.accepted
        reasons.update(recorded.reasons)
        progress(f"validated {batch.origin}: {recorded.accepted:,} accepted, {recorded.rejected:,} rejected")
    return Validated(
        batches=tuple(done), read=read, accepted=accepted, rejected=read - accepted,
        reasons=dict(reasons.most_common()), notes=tuple(notes), held=tuple(held), sample=tuple(sample),
    )  # fmt: skip


def load(
    source: SourceRow, store: BatchStore, contacts: ContactStore, *, force: bool = False, progress: Progress = _silent
) -> Loaded:
    """Take every validated batch into the contacts, each in one transaction: visible whole or not at all.

    A batch of which a greater share was rejected than `max_reject_share` allows is withheld unless forced.
    """
    notes = list(_renewed(source, store, progress).notes)
    rules = rules_of(source)
    counts = LoadCounts()
    withheld: list[BatchRow] = []
    again: list[BatchRow] = []
    with contacts.loading(source) as into:
        for batch in store.batches(source, "validated"):
            if batch.rules != rules:  # nor can those of today read it
                continue
            if not force and too_many_rejected(source, batch):
                withheld.append(batch)
                progress(f"withheld {batch.origin}: {batch.refused:,} of {batch.shown:,} rows were rejected")
            elif batch.loaded_before:
                again.append(batch)
            else:
                counts += _load(into, [batch], progress) or LoadCounts()
        while again:  # together: who is doubted because of several of them is made anew once
            if (loaded := _load(into, again, progress)) is not None:
                counts += loaded
                break
            left = {batch.id for batch in store.batches(source, "validated") if batch.rules == rules}
            again = [batch for batch in again if batch.id in left]
    if counts.left:
        who, stay, them = ("contact", "stays", "it") if counts.left == 1 else ("contacts", "stay", "them")
        notes.append(
            f"{counts.left:,} {who} {stay}: a batch that may name {them} cannot be read any more, or waits to be loaded"
        )
    absent, said = walks.follow(source, store, contacts, force=force)
    return Loaded(counts=counts + LoadCounts(withdrawn=absent), withheld=tuple(withheld), notes=(*notes, *said))


def _load(into: Load, batches: Sequence[BatchRow], progress: Progress) -> LoadCounts | None:
    """None: nothing was loaded, as another process has loaded one of them or divided it anew."""
    what = batches[0].origin if len(batches) == 1 else f"{len(batches)} batches again"
    rows = sum(batch.rows_accepted for batch in batches)
    if rows >= TOLD_EVERY:
        progress(f"loading {what}: {rows:,} rows")
    with at(named(batches)):
        loaded = into(batches)
    if loaded is None:
        return None
    removed = f", {loaded.removed:,} removed" if loaded.removed else ""
    progress(f"loaded {what}: {loaded.new:,} new contact{'s' * (loaded.new != 1)}, {loaded.changed:,} changed{removed}")
    return loaded


def publish_contacts(tenant_id: int, contacts: ContactStore, *, now: datetime) -> Published:
    """Write the tenant's contacts as they are now into the lake, in the place of the last generation."""
    return contacts.publish(tenant_id, now)
