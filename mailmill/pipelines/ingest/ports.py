"""What ingest needs from outside: a feed that yields raw batches, and stores for batches and contacts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable

import polars as pl

from mailmill.pipelines.configuration.specs import FieldSpec, SourceSpec
from mailmill.pipelines.ingest.duplicates import Spool
from mailmill.pipelines.ingest.generations import Published
from mailmill.pipelines.ingest.raw import RawTable
from mailmill.pipelines.ingest.validation import Checked

BatchState = Literal["held", "raw", "validated", "loaded", "discarded", "removed"]
Cursor = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """A source as it was applied. Its cursor is read where it is used, under the source's lock."""

    id: int
    tenant_id: int
    tenant: str  # slug
    slug: str
    priority: int
    spec: SourceSpec
    fields: tuple[FieldSpec, ...] = ()  # the tenant's
    failed_at: datetime | None = None  # when an import of it last failed, null after one that went well

    @property
    def name(self) -> str:
        return f"{self.tenant}/{self.slug}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch:
    """Rows that belong together: a file, some pages of an API, what a person typed.

    `key` is made from the content, so that the same content is the same batch. `cursor`, where there is one, is how
    far the source has been read with this batch; it is stored in the same transaction as the rows. With a cursor the
    same content is the same batch only where nothing else came in between.
    """

    key: str
    origin: str
    seen_at: datetime  # when the source said so
    table: RawTable
    cursor: Cursor | None = None
    notes: tuple[str, ...] = ()
    few: bool = False  # rows, each with the fields it has: what all of them lack is not gone
    usual: tuple[str, ...] | None = None  # of such rows the columns that most have; None: of a file, all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Something the source holds that cannot be read as a whole; it stays where it is, and the rest goes on."""

    origin: str
    message: str

    @property
    def text(self) -> str:
        """What could not be read and why, its name once."""
        return self.message if self.message.startswith(self.origin) else f"{self.origin}: {self.message}"


class Feed(Protocol):
    """Reads one source."""

    def batches(self, cursor: Cursor | None) -> Iterator[RawBatch | Refusal]:
        """What there is since `cursor`; whoever stops in between may go on later from the last stored cursor.

        Raises: SourceUnavailable when the source does not answer (retry), Misconfigured when a person has to act.
        """
        ...


@runtime_checkable
class ReportingFeed(Feed, Protocol):
    """A feed that may have to wait, and says so."""

    def report_to(self, progress: Callable[[str], None]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A raw batch in the lake. `new` is false when the same content had been kept before."""

    batch_id: int
    new: bool
    rows: int  # it has
    discarded: bool = False  # a person has said that it is not to be taken in


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A raw batch of which nothing is taken in before a person agrees to its columns, or corrects the mapping."""

    batch: int
    origin: str
    why: str
    readable: bool  # by the source's mapping of today
    due: bool  # so the next import takes it in: the mapping is another since, or it was held for nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """A batch as it stands."""

    id: int
    origin: str
    state: BatchState
    seen_at: datetime
    rows_read: int
    rows_accepted: int
    rows_rejected: int
    withdrawn: int = 0  # of the rejected rows: what the source says it has deleted
    rules: str = ""  # fingerprint of those it was divided by
    loaded_before: bool = False  # the contacts have what it said by earlier rules

    @property
    def shown(self) -> int:
        """Rows that show somebody, and do not say that they were deleted."""
        return self.rows_read - self.withdrawn

    @property
    def refused(self) -> int:  # of these
        return self.rows_rejected - self.withdrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCounts:
    """What loading did. new + across + within = accepted rows; changed is a part of across."""

    batches: int = 0
    accepted: int = 0
    new: int = 0
    changed: int = 0
    duplicates_within: int = 0
    duplicates_across: int = 0
    withdrawn: int = 0  # contacts that the source says it has deleted
    removed: int = 0  # contacts that no batch names any more, by the rules of today
    left: int = 0  # contacts that are as they were, as a batch that may name them is unreadable or waits

    def __add__(self, other: LoadCounts) -> LoadCounts:
        names = LoadCounts.__dataclass_fields__
        return LoadCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


class RawStore(Protocol):
    """Keeps what sources said, as they said it."""

    def importing(self, source: SourceRow) -> AbstractContextManager[tuple[SourceRow, Cursor | None]]:
        """Hold the source: one import of it at a time, others wait. Gives it and its cursor as they stand now.
        Raises: StoreUnavailable when another import takes too long, Misconfigured when it was deleted meanwhile."""
        ...

    def columns(self, source: SourceRow) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The columns of the source's newest batch that is not held, and the usual ones; empty before the first."""
        ...

    def keep(self, source: SourceRow, batch: RawBatch, *, surprise: str | None = None, hold: bool = False) -> Kept:
        """Rows, batch and cursor in one transaction; content that is already there adds nothing, with a cursor only
        where it is that of the newest batch.

        In: surprise, what is odd about the batch's columns; hold: nothing of it is to be taken in.
        Raises: Misconfigured when the batch turns out unreadable as it is read; nothing of it is kept then.
        """
        ...

    def release(self, source: SourceRow, *, accept: bool) -> int:
        """Let in what is held and can be read: all, or what is due. Out: how many."""
        ...

    def discard(self, source: SourceRow, batches: Sequence[int]) -> list[BatchRow]:
        """Put batches that wait for a person aside, all of them or none; their rows are kept. One that is discarded
        already stays so. Raises: Misconfigured when one is not held or withheld, or was ever loaded."""
        ...

    def held(self, source: SourceRow) -> list[Held]:
        """What is held, oldest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A batch as it was divided. Accepted rows are counted as the source has them, those merged into others too."""

    accepted: int
    rejected: int
    reasons: Mapping[str, int]


class BatchStore(Protocol):
    """Moves batches from raw to validated."""

    def batches(self, source: SourceRow, state: BatchState | None) -> list[BatchRow]:
        """The source's batches in this state (None: all), oldest first."""
        ...

    def raw(self, source: SourceRow, batch: BatchRow) -> Iterator[pl.DataFrame]:
        """RAW_SCHEMA with the source's columns, piece by piece."""
        ...

    def spool(self, source: SourceRow) -> AbstractContextManager[Spool]:
        """Room on disk for as long as one batch is validated."""
        ...

    def record(self, source: SourceRow, batch: BatchRow, pieces: Iterable[Checked]) -> Recorded | None:
        """Accepted and rejected rows, counts and state in one transaction. None: the state had changed meanwhile.
        In: pieces, walked once; no match_key is accepted in two of them."""
        ...

    def hold(self, source: SourceRow, batch: BatchRow) -> bool:
        """Keep a batch aside that cannot be read. False: it stays, as it was loaded before."""
        ...


class Load(Protocol):
    """Validated batches in one transaction, with what each says of deletions. Out: None, somebody else had loaded one.
    What batches said when they were loaded before, by other rules, is taken back, unless others say so too."""

    def __call__(self, batches: Sequence[BatchRow]) -> LoadCounts | None: ...


class ContactStore(Protocol):
    """Takes validated batches into the contacts, and shows the contacts as a generation."""

    def loading(self, source: SourceRow) -> AbstractContextManager[Load]:
        """For the source's validated batches, one call after the other."""
        ...

    def walk(self, source: SourceRow) -> list[BatchRow]:
        """The batches of a walk from the beginning that waits to be compared, and those loaded since; oldest first."""
        ...

    def withdraw_absent(
        self, source: SourceRow, walk: Sequence[BatchRow], present: pl.Series, *, max_share: float
    ) -> tuple[int, bool] | None:
        """Withdraw what a walk did not show.
        Out: how many contacts; whether they were few enough to be withdrawn, else the walk waits for a person. None:
             the walk was compared meanwhile, or more was loaded since it was read, and whoever loaded that compares it.
        """
        ...

    def asked(self, source: SourceRow) -> int | None:
        """How many contacts a walk that waits for a person did not show. None: none waits."""
        ...

    def publish(self, tenant_id: int, now: datetime) -> Published:
        """Put a CONTACTS generation in the place of the last; its files that are still true stay."""
        ...
