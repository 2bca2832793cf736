"""Numbers as Dagster's UI shows them: tables, and bars drawn as SVG (no plotting library for a few rectangles)."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import dagster as dg

from mailmill.pipelines.ingest.generations import Published

_ROW, _LABEL, _BAR, _NUMBER = 22, 150, 320, 90  # pixels


def table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Rows with the same keys; integers stay integers, everything else is shown as text."""
    records = [dg.TableRecord({name: _cell(value) for name, value in row.items()}) for row in rows]
    columns = [dg.TableColumn(name, _kind(value)) for name, value in (rows[0] if rows else {}).items()]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))


def counts(numbers: Mapping[str, int], *, what: str) -> dg.TableMetadataValue:
    """A mapping as a table of two columns, the greatest number first."""
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    columns = [dg.TableColumn(what, "string"), dg.TableColumn("rows", "int")]
    records = [dg.TableRecord({what: name, "rows": number}) for name, number in ordered]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))


def bars(numbers: Mapping[str, int], *, title: str) -> dg.MarkdownMetadataValue:
    """Horizontal bars, in the order given."""
    most = max(numbers.values(), default=0) or 1
    height = _ROW * len(numbers) + 8
    width = _LABEL + _BAR + _NUMBER
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"']
    parts.append(' font-size="12">')
    for index, (name, number) in enumerate(numbers.items()):
        top, length = 4 + index * _ROW, max(1, round(_BAR * number / most))
        parts.append(f'<text x="{_LABEL - 8}" y="{top + 14}" text-anchor="end" fill="#5f6b7a">{escape(name)}</text>')
        parts.append(f'<rect x="{_LABEL}" y="{top + 2}" width="{length}" height="{_ROW - 6}" rx="2" fill="#4f6bd8"/>')
        parts.append(f'<text x="{_LABEL + length + 6}" y="{top + 14}" fill="#5f6b7a">{number:,}</text>')
    parts.append("</svg>")
    image = base64.b64encode("".join(parts).encode()).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{image})")


def _cell(value: Any) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return "float" if isinstance(value, float) else "string"


def publication(published: Published) -> dict[str, dg.MetadataValue | int | float]:
    """What publishing a generation took, as metadata."""
    return {
        "dagster/row_count": published.rows,
        "as_of": dg.MetadataValue.timestamp(published.as_of),
        "files_written": published.files_written,
        "files_kept": published.files_kept,
        "bytes_written": published.bytes_written,
        "merged_into_others": published.merged,
        "largest_person": published.largest_person,
        "publication_s": round(published.seconds, 2),
    }
