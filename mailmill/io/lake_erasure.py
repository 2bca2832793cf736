"""Files of the lake without a person: written anew, listed in the place of the old ones, and those removed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
import psycopg

from mailmill.errors import StoreUnavailable
from mailmill.io.lake import Lake, LakeFile
from mailmill.io.lake_writer import LakeWriter
from mailmill.io.postgres import erasure, ingest, manifest
from mailmill.io.postgres.database import Database
from mailmill.pipelines.ingest import erasure_rows
from mailmill.pipelines.ingest.erasure import Person, channel_of
from mailmill.pipelines.ingest.erasure_raw import numbered_rows, raw_rows
from mailmill.pipelines.ingest.ports import BatchRow, SourceRow

Listed = tuple[str, str, str, int | None, dict[str, Any]]  # file, dataset, part, batch_id, facts


def scan(lake: Lake, file: str) -> pl.LazyFrame:
    return pl.scan_parquet(lake.path(file), glob=False)


def rewrite(
    conn: psycopg.Connection, lake: Lake, tenant_id: int, who: Person, files: Iterable[Listed],
    sources: Sequence[SourceRow], lines: Collection[int] = (), numbers: Collection[str] = (),
) -> int:  # fmt: skip
    """New files in the place of those that hold the person, listed by the caller's transaction. Out: how many.

    In: lines, of raw files, that are left out as well; so are rows that have one of these numbers and no address.
    """
    columns = {source.slug: source.spec.columns for source in sources}
    rewritten = 0
    theirs: dict[int | None, set[int]] = {}  # batch -> lines; raw files come first
    for name, dataset, part, batch_id, facts in sorted(files, key=lambda file: file[1] != "raw"):
        if not lake.path(name).exists():
            continue
        frame = scan(lake, name)
        if dataset == "raw":
            said = raw_rows(who, frame, columns.get(part, {}), facts)
            theirs.setdefault(batch_id, set()).update(said)
            own = pl.col("line").is_in([*lines, *said, *numbered_rows(numbers, frame, columns.get(part, {}))])
        else:
            own = erasure_rows.own_rows(who, dataset, frame.collect_schema(), theirs.get(batch_id))
        if not erasure_rows.touched(who, dataset, frame, own):
            continue
        file = lake.write(erasure_rows.without(who, dataset, frame, own), tenant_id=tenant_id, dataset=dataset)
        _swap(conn, tenant_id, name, file, dataset, part, batch_id, facts)
        rewritten += 1
    return rewritten


def rewrite_batch(
    conn: psycopg.Connection, lake: Lake, source: SourceRow, batch: BatchRow, named: set[str], lines: Collection[int]
) -> None:
    """The raw files of a batch that names forgotten persons again, without them. In: named, match keys."""
    raw = [(file, "raw", source.slug, batch.id, facts) for file, facts in
           ingest.batch_files(conn, tenant_id=source.tenant_id, dataset="raw", batch_id=batch.id)]  # fmt: skip
    numbers = {key for key in named if channel_of(key) == "phone"}  # that others may share
    rewrite(conn, lake, source.tenant_id, Person(tuple(named - numbers)), raw, [source], lines, numbers)


def _swap(
    conn: psycopg.Connection, tenant_id: int, old: str, new: LakeFile, dataset: str, part: str, batch_id: int | None,
    facts: Mapping[str, Any],
) -> None:  # fmt: skip
    if conn.execute(erasure.SQL["swap"], {"tenant_id": tenant_id, "file": old}).fetchone() is not None:
        counted = {**facts, "rows": new.rows} if "rows" in facts else facts
        manifest.add(conn, new, tenant_id=tenant_id, dataset=dataset, part=part, batch_id=batch_id, facts=counted)


def listed(conn: psycopg.Connection, tenant_id: int) -> set[str]:
    """The files that the tenant's manifest names, but for those written anew."""
    return {row[0] for row in conn.execute(erasure.SQL["files"], {"tenant_id": tenant_id})}


def clear(database: Database, lake: Lake, tenant_id: int) -> None:
    """Remove the files that were rewritten, those of a run that was killed as well, and then their names."""
    with database.transaction() as conn:
        erased = [name for (name,) in conn.execute(erasure.SQL["erased_files"], {"tenant_id": tenant_id})]
    for name in erased:
        lake.path(name).unlink(missing_ok=True)
    with database.transaction() as conn:
        conn.execute(erasure.SQL["gone"], {"tenant_id": tenant_id, "files": erased})


@contextmanager
def taking_in(
    database: Database, lake: Lake, tenant_id: int, number: int, *writers: LakeWriter
) -> Iterator[psycopg.Connection]:
    """A transaction that lists what was written, unless somebody was forgotten since that `number`: then the files may
    name them, and go. So they do when a forget has removed one of them already: the number does not grow with somebody
    who was forgotten before, nor with the later passes.

    Raises: StoreUnavailable.
    """
    paths = [lake.path(file.file) for writer in writers for file in writer.files]
    with database.transaction() as conn:
        try:
            erasure.unless_forgotten(conn, tenant_id, since=number)
            if not all(path.exists() for path in paths):
                raise StoreUnavailable(erasure.MEANWHILE)
        except StoreUnavailable:
            for path in paths:
                path.unlink(missing_ok=True)
            raise
        yield conn
