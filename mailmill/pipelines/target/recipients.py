"""Recipients by hand: whom a person added to a campaign besides its segment, and whom they took out of it."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from mailmill.pipelines.target.audiences import NOBODY

CHOSEN_SCHEMA = pl.Schema({"match_key": pl.String(), "added": pl.Boolean()})  # added: false of one who was taken out


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The contacts of the segment and those added to them, before anybody is excluded."""

    contacts: pl.LazyFrame  # CONTACTS_SCHEMA
    besides: int  # of them are not in the segment
    removed: pl.Series  # contact ids
    unpublished: int  # were added, but the generation does not hold them


def choose(segment: pl.LazyFrame, generation: pl.LazyFrame, chosen: pl.DataFrame) -> Candidates:
    """The segment with those added; one who was added and taken out under another address stays out.

    In:     CONTACTS_SCHEMA, the members of the segment and all contacts; CHOSEN_SCHEMA.
    """
    if chosen.is_empty():
        return Candidates(contacts=segment, besides=0, removed=NOBODY, unpublished=0)
    # people whom the tenant's rule shows as one contact are known by each of their addresses
    several = generation.filter(pl.col("aliases").list.len() > 1).select("contact_id", match_key="aliases")
    keys = pl.concat([generation.select("contact_id", "match_key"), several.explode("match_key")]).unique()
    named = keys.join(chosen.lazy(), on="match_key").collect(engine="streaming")
    persons = named.group_by("contact_id").agg(pl.col("added").all())
    inside = segment.join(persons.lazy(), on="contact_id", how="semi").select("contact_id").collect()
    outside = persons.filter("added").join(inside, on="contact_id", how="anti")
    return Candidates(
        contacts=pl.concat([segment, generation.join(outside.lazy(), on="contact_id", how="semi")]),
        besides=outside.height,
        removed=persons.filter(~pl.col("added"))["contact_id"],
        unpublished=chosen.filter("added").height - named.filter("added")["match_key"].n_unique(),
    )
