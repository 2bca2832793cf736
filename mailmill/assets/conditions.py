"""When an asset is materialized by itself: conditions over partitions that Dagster has no mapping for."""

from dataclasses import dataclass
from typing import Any

import dagster as dg

from mailmill.assets import partitions

DAILY = "15 3 * * *"  # UTC


@dataclass(frozen=True)
class OfItsTenant(dg.AutomationCondition[Any]):
    """True for every partition `tenant|…` for whose tenant `operand` holds of a partition of an upstream asset.

    Upstream partitions are `tenant` or `tenant|…`. A partition mapping of our own would be dropped where definitions
    are serialized, so this is evaluated in the code server, as conditions of users are.
    """

    operand: dg.AutomationCondition[Any]

    @property
    def children(self) -> list[dg.AutomationCondition[Any]]:
        return [self.operand]

    @property
    def name(self) -> str:
        return f"of its tenant: {self.operand.name}"

    @property
    def requires_cursor(self) -> bool:
        return False

    async def evaluate(  # type: ignore[override]
        self, context: dg.AutomationContext[dg.AssetKey]
    ) -> dg.AutomationResult[dg.AssetKey]:
        view, found = context.asset_graph_view, []
        for at, parent in enumerate(sorted(context.asset_graph.get(context.key).parent_keys)):
            candidates = view.get_full_subset(key=parent)
            child = context.for_child_condition(self.operand, child_indices=[at], candidate_subset=candidates)
            found.append(await child.evaluate_async())
        changed = {
            partitions.parts(key)[0]
            for result in found
            for key in result.true_subset.expensively_compute_partition_keys()
        }
        ours = context.candidate_subset.expensively_compute_partition_keys()
        keys = {key for key in ours if partitions.parts(key)[0] in changed}
        true = context.candidate_subset.compute_intersection_with_partition_keys(keys)
        return dg.AutomationResult(context, true, child_results=found)


def refreshed_with_contacts() -> dg.AutomationCondition[Any]:
    """New, its tenant's contacts have become others, or a day has passed (rules such as `within_days` count from
    today); once there are contacts, and never twice at a time.

    Only a request settles a change, and only one that came before it: a run that was under way when the contacts
    changed read what was before.
    """
    condition = dg.AutomationCondition
    changed = OfItsTenant(condition.newly_updated()) | condition.newly_missing() | condition.cron_tick_passed(DAILY)
    waiting = changed.since(condition.newly_requested() & ~changed)
    return waiting & OfItsTenant(~condition.missing()) & ~condition.in_progress()
