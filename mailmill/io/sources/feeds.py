"""From a source, as it was applied, to the feed that reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mailmill.errors import Misconfigured
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest.ports import Feed, SourceRow


def feed_of(
    source: SourceRow,
    *,
    project: Path,
    secret: Callable[[str], str],
    files: Sequence[Path] = (),
    full: bool = False,
    private: Sequence[str] = (),
) -> Feed:
    """The feed of a source.

    In:     project, which `folder` is relative to; secret resolves a reference; files, read in place of the folder;
            full: an API from its beginning; private: hosts and networks that may be reached although they are private.
    Raises: Misconfigured when there is nothing this source could be read from.
    """
    spec = source.spec
    if full and spec.type not in ("scraper_pro", "backlink_engine"):
        raise Misconfigured(f"{source.name} is no HTTP API, so there is nothing to synchronize anew", place="--full")
    if spec.type == "csv":
        folder = project / spec.folder if spec.folder and not files else None
        return CsvFiles(paths=files, folder=folder, encoding=spec.encoding, delimiter=spec.delimiter, sheet=spec.sheet)
    if files:
        raise Misconfigured(f"{source.name} is of type {spec.type} and reads no files", place="--file")
    if spec.type == "manual":  # it is filled by hand; what is kept of it may wait for a person
        return CsvFiles()
    from mailmill.io.sources.http_json import HttpFeed, HttpSource  # its HTTP client takes longer to load than a file

    assert spec.url is not None and spec.api_key is not None  # SourceSpec sees to it
    return HttpFeed(
        HttpSource(
            url=spec.url,
            type=spec.type,
            key=secret(spec.api_key),
            name=source.name,
            page_size=spec.page_size,
            timeout_s=spec.timeout_s,
            private=tuple(private),
        ),
        full=full,
    )
