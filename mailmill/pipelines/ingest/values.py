"""Raw rows -> their values, field by field: what was written, and what was found in it."""

from __future__ import annotations

import polars as pl

from mailmill.pipelines.ingest import addresses, cells, phones
from mailmill.pipelines.ingest.columns import ColumnMap
from mailmill.pipelines.ingest.fields import FIELD
from mailmill.pipelines.ingest.raw import CELL

KNOWN = ("email", "phone", "name", "first_name", "last_name", "language", "category", "country", "time_zone", "tags",
         "seen_at")  # fmt: skip


_AT = "[@\uff20\ufe6b]"


def values_of(raw: pl.DataFrame, columns: ColumnMap, country: str | None) -> pl.DataFrame:
    """The values of each row, in the same order.

    In:  RAW_SCHEMA with the source's columns; country, of rows that name none.
    Out: line; of KNOWN and of custom fields what was written, null where nothing was; addresses.EXAMINED_SCHEMA,
         country_code, language_code, zone, time and e164, as they were found in it.
    """
    named = columns.known | {FIELD + field: header for field, header in columns.custom.items()}
    values = pl.DataFrame([raw["line"], *(cells.clean(raw[CELL + header]).alias(f) for f, header in named.items())])
    missing = [name for name in KNOWN if name not in columns.known]
    values = values.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    if columns.street is not None:
        mail, street = pl.col("email").str.contains(_AT), FIELD + columns.street
        values = values.with_columns(
            pl.when(mail).then("email").alias("email"), pl.when(~mail).then(street).alias(street)
        )
    values = values.with_columns(cells.given("email"), cells.given("phone"))
    values = values.hstack(addresses.examine(values["email"]))
    values = values.with_columns(
        cells.country(), cells.language(), cells.time_zone(), time=cells.time(values["seen_at"])
    )
    region = values.select(pl.coalesce("country_code", pl.lit(country, pl.String))).to_series()
    return values.with_columns(e164=phones.examine(values["phone"], region))
