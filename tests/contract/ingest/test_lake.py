"""What killed writers leave in the lake."""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Callable

import polars as pl
import pytest

from mailmill.errors import StoreUnavailable
from mailmill.io.lake import Lake, below, busy
from mailmill.io.lake_writer import LakeWriter
from mailmill.io.spool import spool


def test_what_a_killed_writer_left_goes_and_what_somebody_is_writing_stays(lake: Lake) -> None:
    kept = lake.write(pl.DataFrame({"n": [1]}), tenant_id=1, dataset="raw")
    folder = lake.path(kept.file).parent
    torn, written = folder / ".torn.parquet.tmp", folder / ".written.parquet.tmp"
    torn.write_bytes(b"PAR1 half of it")
    dead = lake.root / "1" / ".spool-dead"
    dead.mkdir()
    for name in ("busy", "0-0.parquet"):
        (dead / name).write_bytes(b"")
    with busy(written), spool(lake.root / "1") as alive:
        alive.put(0, pl.DataFrame({"n": [2]}))
        lake.remove_torn(1)
        assert written.exists() and not torn.exists() and not dead.exists()
        assert [frame["n"].to_list() for frame in alive.take(0)] == [[2]]
    lake.remove_torn(1)
    assert [path.name for path in (lake.root / "1").rglob("*") if path.is_file()] == [lake.path(kept.file).name]


def put_aside(lake: Lake, frame: pl.DataFrame) -> None:
    with spool(lake.root / "1") as aside:
        aside.put(0, frame)


def stream(lake: Lake, frame: pl.DataFrame) -> None:
    with LakeWriter(lake, tenant_id=1, dataset="raw") as writer:
        writer.add(frame)


@pytest.mark.parametrize(
    "write",
    [
        lambda lake, frame: lake.write(frame, tenant_id=1, dataset="raw"),
        lambda lake, frame: lake.write(frame.lazy(), tenant_id=1, dataset="raw"),
        stream,
        put_aside,
    ],
    ids=["a frame", "a lazy one", "a stream", "what is laid aside"],
)
def test_F20_a_disk_that_fills_while_a_file_is_written_is_said_and_leaves_nothing_of_it(
    lake: Lake, write: Callable[[Lake, pl.DataFrame], object]
) -> None:
    """It passes, so what failed is tried again. Here no file may be longer than 100 kB."""
    frame = pl.DataFrame({"n": [random.random() for _ in range(50_000)]})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreUnavailable, match=r"cannot be written in .*: File too large$"):
            write(lake, frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(below(lake.root)) == []


def test_what_is_wrong_with_the_frame_is_not_put_down_to_the_disk(lake: Lake) -> None:
    broken = pl.LazyFrame({"a": ["x"]}).select(pl.col("a").str.to_integer())
    with pytest.raises(pl.exceptions.PolarsError):
        lake.write(broken, tenant_id=1, dataset="raw")
    assert list(below(lake.root)) == []


def test_what_goes_while_the_lake_is_walked_stops_nobody(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation ends while somebody is forgotten or the lake is swept."""
    kept = lake.write(pl.DataFrame({"n": [1]}), tenant_id=1, dataset="raw")
    (lake.root / "1" / "first").write_bytes(b"")
    with spool(lake.root / "1") as alive:
        alive.put(0, pl.DataFrame({"n": [2]}))
        walk = below(lake.root / "1")
        found = [next(walk)]
        frames = list(alive.folder.glob("*.parquet"))
        shutil.rmtree(alive.folder)
        assert {path.name for path in [*found, *walk]} == {"first", lake.path(kept.file).name}
    monkeypatch.setattr("mailmill.io.lake.below", lambda folder: [*frames, lake.path(kept.file)])
    swept = lake.sweep([kept.file])
    assert (swept.waiting, swept.listed) == (0, 1)


def test_a_validation_whose_frames_were_taken_away_says_what_to_do(lake: Lake) -> None:
    with spool(lake.root / "1") as alive:
        alive.put(0, pl.DataFrame({"n": [2]}))
        next(alive.folder.glob("*.parquet")).unlink()
        with pytest.raises(StoreUnavailable, match="the next run"):
            list(alive.take(0))
