"""The further match keys of a person, where a tenant's rule makes several contacts one: as the generation shows it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import psycopg

from mailmill.io.lake import Lake
from mailmill.io.postgres import manifest
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA


def of(conn: psycopg.Connection, lake: Lake, tenant_id: int, match_keys: Sequence[str]) -> list[str]:
    """Every key of the persons that have one of these; empty for who is a person alone."""
    files = [one.file for one in manifest.listed(conn, tenant_id=tenant_id, dataset="contacts")]
    several = lake.scan([file for file in files if lake.path(file).exists()], CONTACTS_SCHEMA).filter(
        pl.col("aliases").list.len() > 1
    )
    theirs = several.filter(pl.col("aliases").list.set_intersection(list(match_keys)).list.len() > 0)
    keys = theirs.select(pl.col("aliases").explode()).collect(engine="streaming")["aliases"]
    return sorted(set(keys.drop_nulls().to_list()))
