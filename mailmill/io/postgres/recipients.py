"""Recipients that a person added to or took from a campaign before it began. The caller owns the transaction."""

from __future__ import annotations

import io
from collections.abc import Sequence

import polars as pl
import psycopg

from mailmill.errors import Misconfigured
from mailmill.io.postgres.campaigns import Campaign
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.target.lifecycle import UNPLANNED
from mailmill.pipelines.target.recipients import CHOSEN_SCHEMA

SQL = statements("recipients")


def change(
    conn: psycopg.Connection, campaign: Campaign, address_keys: Sequence[str], *, added: bool
) -> dict[str, list[str]]:
    """Add contacts to a campaign, or take them out. Out: the addresses by what became of them.

    `new`, `same` (it was so already), or why not: `unknown`, and of those to be added `invalid` and `suppressed`.

    Raises: Misconfigured when its audience is frozen.
    """
    parameters = {"campaign_id": campaign.campaign_id, "tenant_id": campaign.tenant_id, "added": added}
    row = conn.execute(SQL["lock"], parameters).fetchone()
    assert row is not None
    if row[0] not in UNPLANNED:
        raise Misconfigured(
            f"campaign {campaign.name} is {row[0]}, its recipients are frozen",
            remedy="`mailmill suppress add` takes somebody out of what is still to be sent.",
        )
    return dict(conn.execute(SQL["change"], {**parameters, "keys": list(address_keys)}).fetchall())


def chosen(conn: psycopg.Connection, campaign_id: int) -> pl.DataFrame:
    """Whom people added and took out. Out: CHOSEN_SCHEMA."""
    text = io.BytesIO()
    with conn.cursor() as cursor, cursor.copy(SQL["chosen"], {"campaign_id": campaign_id}) as copy:
        for piece in copy:
            text.write(piece)
    if not text.tell():
        return pl.DataFrame(schema=CHOSEN_SCHEMA)
    text.seek(0)
    frame = pl.read_csv(text, has_header=False, schema={"match_key": pl.String(), "added": pl.String()})
    return frame.with_columns(pl.col("added") == "t")
