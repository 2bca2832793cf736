"""What applying documents would change: a pure comparison of what is declared with what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import orjson
from pydantic import ValidationError

from mailmill.pipelines.configuration.documents import SPECS, AnySpec, Declared, Key, Problem, name_of
from mailmill.pipelines.configuration.sending import TransportSpec
from mailmill.pipelines.configuration.specs import KINDS, CampaignSpec, SourceSpec

Action = Literal["create", "change", "unchanged"]
EDITABLE = ("draft", "scheduled", "missed", "failed")  # nothing was planned yet; any other campaign stays as it is
UNDER_WAY = ("planning", "running", "paused")  # decided for the transport that there was


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the database holds of one thing; `state` is a campaign's, as is whether it was planned for a sandbox."""

    spec: Mapping[str, Any]
    state: str | None = None
    sandbox: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field, before and after, as JSON values."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of one document. `state` is the state a campaign moves to, None where it keeps its own."""

    action: Action
    key: Key
    place: str
    spec: dict[str, Any] = field(repr=False)
    fields: tuple[FieldChange, ...] = ()
    state: Literal["draft", "scheduled"] | None = None
    note: str | None = None

    @property
    def kind(self) -> str:
        return self.key[0]

    @property
    def name(self) -> str:
        return name_of(self.key)


def plan(
    declared: Iterable[Declared], stored: Mapping[Key, Stored], now: datetime
) -> tuple[list[Change], list[Problem]]:
    """Compare documents with what is stored. Things that are stored and not declared are left as they are.

    Out: changes in the order in which they have to be applied, and why some of them are refused.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    for one in sorted(declared, key=lambda one: KINDS.index(one.key[0])):
        before = stored.get(one.key)
        change = _compare(one, before, now)
        problem = _refused(one, before, change) or _in_use(one, before, stored)
        if problem is None:
            changes.append(change)
        else:
            problems.append(problem)
    return changes, problems


def _compare(one: Declared, before: Stored | None, now: datetime) -> Change:
    spec = one.spec.model_dump(mode="json")
    if before is None:
        start = one.spec.start if isinstance(one.spec, CampaignSpec) else None
        return Change(
            action="create",
            key=one.key,
            place=one.place,
            spec=spec,
            state=_state(start) if isinstance(one.spec, CampaignSpec) else None,
            note=_late(one.spec, now),
        )
    old = normal(one.key[0], before.spec)
    fields = tuple(
        FieldChange(field=name, old=old.get(name), new=spec.get(name))
        for name in dict.fromkeys((*spec, *old))
        if old.get(name) != spec.get(name)
    )
    moved = isinstance(one.spec, CampaignSpec) and any(change.field == "start" for change in fields)
    return Change(
        action="change" if fields else "unchanged",
        key=one.key,
        place=one.place,
        spec=spec,
        fields=fields,
        state=_state(spec["start"]) if moved else None,
        note=_late(one.spec, now) if moved else None,
    )


def normal(kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A stored spec as this version would have stored it: a field that came later has its default."""
    try:
        return SPECS[kind].model_validate_json(orjson.dumps(dict(spec))).model_dump(mode="json")
    except ValidationError:  # what an older version allowed and this one does not
        return dict(spec)


def _state(start: object) -> Literal["draft", "scheduled"]:
    return "draft" if start is None else "scheduled"


def _late(spec: AnySpec, now: datetime) -> str | None:
    if not isinstance(spec, CampaignSpec) or spec.start is None:
        return None
    if spec.start + timedelta(seconds=spec.misfire_grace_s) < now:
        return "its start is past by more than misfire_grace_s: it will count as missed"
    return None


def _refused(one: Declared, before: Stored | None, change: Change) -> Problem | None:
    if before is None or change.action != "change":
        return None
    first = (change.fields[0].field,)
    if isinstance(one.spec, CampaignSpec) and before.state not in EDITABLE:
        changed = ", ".join(f.field for f in change.fields)
        return one.problem(
            f"campaign {change.name} is {before.state} and is not changed any more ({changed} differ); "
            "give a new campaign another slug",
            first,
        )
    if isinstance(one.spec, SourceSpec) and before.spec.get("type") != one.spec.type:
        was = before.spec.get("type")
        return one.problem(
            f"type: source {change.name} is of type {was}, which stays; give a new source another slug", ("type",)
        )
    return None


def _in_use(one: Declared, before: Stored | None, stored: Mapping[Key, Stored]) -> Problem | None:
    """A campaign that was planned for a sandbox must reach nobody, and one for a relay everybody."""
    was = None if before is None else before.spec.get("type")
    if not isinstance(one.spec, TransportSpec) or was in (None, one.spec.type):
        return None
    users = [
        f"{name_of(key)} ({other.state})"
        for key, other in sorted(stored.items())
        if key[:2] == ("campaign", one.key[1])
        and other.state in UNDER_WAY
        and other.spec["transport"] == one.key[2]
        and other.sandbox is not (one.spec.type == "sandbox")  # else this is what it waits for
    ]
    if not users:
        return None
    return one.problem(
        f"type: transport {name_of(one.key)} stays of type {was} while what was planned for that is under way: "
        f"{', '.join(users)}; finish or cancel it first, or declare a second transport under another slug",
        ("type",),
    )


def summary(changes: Sequence[Change]) -> dict[Action, int]:
    """How many of each action."""
    counts: dict[Action, int] = {"create": 0, "change": 0, "unchanged": 0}
    for change in changes:
        counts[change.action] += 1
    return counts
