"""How the work divides: a partition a source, a segment, a campaign (keys `tenant|slug`), or a tenant by its slug."""

import dagster as dg

sources = dg.DynamicPartitionsDefinition(name="sources")
segments = dg.DynamicPartitionsDefinition(name="segments")
tenants = dg.DynamicPartitionsDefinition(name="tenants")
campaigns = dg.DynamicPartitionsDefinition(name="campaigns")


def add(instance: dg.DagsterInstance, definition: dg.DynamicPartitionsDefinition, keys: list[str]) -> None:
    """Make partitions known; those that are known already stay as they are."""
    assert definition.name is not None
    instance.add_dynamic_partitions(definition.name, keys)


def key(tenant: str, slug: str) -> str:
    return f"{tenant}|{slug}"


def parts(partition_key: str) -> tuple[str, str]:
    """(tenant, slug) of a key."""
    tenant, _, slug = partition_key.partition("|")
    return tenant, slug
