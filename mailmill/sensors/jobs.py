"""The jobs: which assets are materialized together."""

import dagster as dg

from mailmill.assets import campaigns, contacts, generations, lake, segments, validation, warehouse

ingest = dg.define_asset_job(
    "ingest",
    selection=dg.AssetSelection.assets(
        contacts.raw_contacts, "validated_contacts", "rejected_contacts", contacts.contacts
    ),
    description="Read a source, keep its rows as they came, validate them, load what holds.",
)
segment = dg.define_asset_job(
    "segment",
    selection=dg.AssetSelection.assets(segments.segments),
    description="Materialize one segment over the present contacts.",
)
campaign = dg.define_asset_job(
    "campaign",
    selection=dg.AssetSelection.assets(campaigns.audience, campaigns.deliveries),
    description="Freeze a campaign's audience when it is due, then work a slice of its ledger. Safe to kill.",
)
publish = dg.define_asset_job(
    "publish",
    selection=dg.AssetSelection.assets(warehouse.warehouse, lake.swept_lake),
    description="Publish the DuckDB files that analysts open, then remove what nobody lists in the lake.",
)
refresh = dg.define_asset_job(
    "refresh",
    selection=dg.AssetSelection.assets(generations.contact_generations),
    description="Publish every tenant's contacts with what changed without a batch: reactions, suppressions, rules.",
)
revalidate = dg.define_asset_job(
    "revalidate",
    selection=dg.AssetSelection.assets(validation.revalidated_contacts),
    description="Examine a tenant's contacts by today's rules, ask DNS for the domains that are due, publish.",
)
ALL = [ingest, segment, campaign, publish, refresh, revalidate]
