"""A plan compares documents with what is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailmill.pipelines.configuration.documents import Declared, Key, RawDocument
from mailmill.pipelines.configuration.plan import Change, FieldChange, Stored, plan
from mailmill.pipelines.configuration.sending import TransportSpec
from mailmill.pipelines.configuration.specs import CampaignSpec, SourceSpec, TenantSpec

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
CAMPAIGN: dict[str, Any] = {
    "kind": "campaign", "tenant": "acme", "slug": "first", "segment": "s", "template": "t", "identity": "i",
    "transport": "r",
}  # fmt: skip
SPECS = {"campaign": CampaignSpec, "tenant": TenantSpec, "source": SourceSpec, "transport": TransportSpec}


def declared(value: dict[str, Any]) -> Declared:
    document = RawDocument(file="a.yaml", value=value, line=lambda position: 1)
    return Declared(spec=SPECS[value["kind"]].model_validate(value), document=document)


def planned(value: dict[str, Any], before: dict[str, Any] | None = None, state: str | None = None) -> Change:
    one = declared(value)
    stored: dict[Key, Stored] = {}
    if before is not None:
        spec = SPECS[before["kind"]].model_validate(before).model_dump(mode="json")
        stored[one.key] = Stored(spec=spec, state=state)
    [change], problems = plan([one], stored, NOW)
    assert not problems
    return change


def test_a_new_campaign_with_a_start_is_scheduled_and_one_without_is_a_draft() -> None:
    assert planned(CAMPAIGN).state == "draft"
    assert planned(CAMPAIGN | {"start": NOW + timedelta(hours=1)}).state == "scheduled"


def test_a_start_that_is_long_past_is_noted() -> None:
    assert planned(CAMPAIGN | {"start": NOW - timedelta(minutes=59)}).note is None
    assert "missed" in (planned(CAMPAIGN | {"start": NOW - timedelta(minutes=61)}).note or "")


def test_the_same_document_again_changes_nothing() -> None:
    again = CAMPAIGN | {"start": "2027-01-01T09:00:00+01:00", "window": {"days": ["mon"], "start": "08:00"}}
    change = planned(again, again, "scheduled")
    assert (change.action, change.fields, change.state) == ("unchanged", (), None)


def test_a_change_names_each_field_before_and_after() -> None:
    change = planned(CAMPAIGN | {"name": "New", "max_attempts": 3}, CAMPAIGN, "draft")
    assert change.fields == (
        FieldChange(field="name", old="", new="New"),
        FieldChange(field="max_attempts", old=24, new=3),
    )
    assert change.state is None, "only its start moves a campaign"


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [(None, "2027-01-01T00:00:00Z", "scheduled"), ("2027-01-01T00:00:00Z", None, "draft"),
     ("2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z", "scheduled")],
)  # fmt: skip
def test_a_changed_start_moves_the_campaign(before: str | None, after: str | None, state: str) -> None:
    assert planned(CAMPAIGN | {"start": after}, CAMPAIGN | {"start": before}, "scheduled").state == state


@pytest.mark.parametrize("state", ["planning", "running", "paused", "finished", "cancelled"])
def test_a_campaign_that_was_planned_is_never_changed(state: str) -> None:
    one = declared(CAMPAIGN | {"doubt": "resend"})
    stored = {one.key: Stored(spec=declared(CAMPAIGN).spec.model_dump(mode="json"), state=state)}
    changes, [problem] = plan([one], stored, NOW)
    assert changes == []
    assert str(problem).startswith(
        f"a.yaml:1: campaign acme/first is {state} and is not changed any more (doubt differ)"
    )


@pytest.mark.parametrize("state", ["planning", "running", "finished"])
def test_a_planned_campaign_in_its_file_is_no_problem(state: str) -> None:
    assert planned(CAMPAIGN, CAMPAIGN, state).action == "unchanged"


def test_a_source_keeps_its_type() -> None:
    csv = {"kind": "source", "tenant": "acme", "slug": "x", "type": "csv"}
    one = declared(csv | {"type": "manual"})
    _, [problem] = plan([one], {one.key: Stored(spec=declared(csv).spec.model_dump(mode="json"))}, NOW)
    assert "is of type csv, which stays" in problem.message


@pytest.mark.parametrize(("was", "wanted"), [("sandbox", "smtp"), ("smtp", "sandbox")])
@pytest.mark.parametrize("state", ["scheduled", "planning", "running", "paused", "finished"])
def test_a_transport_keeps_its_type_while_a_campaign_planned_for_it_is_under_way(
    was: str, wanted: str, state: str
) -> None:
    relay = {"kind": "transport", "tenant": "acme", "slug": "r", "type": was}
    one = declared(relay | {"type": wanted})
    stored = {found.key: Stored(spec=found.spec.model_dump(mode="json")) for found in (declared(relay),)}
    for slug, transport, now in (("first", "r", state), ("else", "q", "running"), ("past", "r", "cancelled")):
        campaign = declared(CAMPAIGN | {"slug": slug, "transport": transport})
        stored[campaign.key] = Stored(spec=campaign.spec.model_dump(mode="json"), state=now)
    changes, problems = plan([one], stored, NOW)
    if state in ("scheduled", "finished"):
        assert [change.kind for change in changes] == ["transport"] and not problems
    else:
        said = (
            f"stays of type {was} while what was planned for that is under way: acme/first ({state}); finish or cancel"
        )
        assert said in problems[0].message and "acme/else" not in problems[0].message


@pytest.mark.parametrize(("was", "wanted"), [("sandbox", "smtp"), ("smtp", "sandbox")])
def test_a_transport_becomes_again_what_everything_under_way_was_planned_for(was: str, wanted: str) -> None:
    relay = {"kind": "transport", "tenant": "acme", "slug": "r", "type": was}
    one, before = declared(relay | {"type": wanted}), declared(relay)
    stored = {before.key: Stored(spec=before.spec.model_dump(mode="json"))}
    campaigns = {slug: declared(CAMPAIGN | {"slug": slug}) for slug in ("first", "second")}

    def planned_for(slug: str, sandbox: bool) -> None:
        campaign = campaigns[slug]
        stored[campaign.key] = Stored(spec=campaign.spec.model_dump(mode="json"), state="paused", sandbox=sandbox)

    planned_for("first", wanted == "sandbox")
    changes, problems = plan([one], stored, NOW)
    assert [change.action for change in changes] == ["change"] and not problems
    planned_for("second", was == "sandbox")
    changes, [problem] = plan([one], stored, NOW)
    assert not changes and "under way: acme/second (paused); finish" in problem.message


def test_a_field_that_came_later_counts_as_its_default() -> None:
    one = declared(CAMPAIGN)
    old = one.spec.model_dump(mode="json")
    del old["doubt"], old["max_attempts"]
    [change], _ = plan([one], {one.key: Stored(spec=old, state="running")}, NOW)
    assert change.action == "unchanged"


def test_things_are_applied_before_what_refers_to_them() -> None:
    tenant = {"kind": "tenant", "slug": "acme", "name": "A", "postal_address": "B"}
    changes, _ = plan([declared(CAMPAIGN), declared(tenant)], {}, NOW)
    assert [change.kind for change in changes] == ["tenant", "campaign"]
