"""One import: the ingest job run in this process, and what came of it as people and programs read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mailmill.cli.app import answer_json, answer_table
from mailmill.cli.runs import Found, RunFailed, run_job
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest import batches, rejects
from mailmill.pipelines.ingest.ports import SourceRow

AFTER_READING = ("validated_contacts", "rejected_contacts", "contacts")
COUNTS = ("new", "changed", "duplicates_within", "duplicates_across")


def take_in(
    mill: Installation,
    source: SourceRow,
    *,
    files: Sequence[Path] = (),
    full: bool = False,
    accept_columns: bool = False,
    discard: Sequence[int] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Read, validate, load and publish. Out: the summary, as --json shows it.

    In: files as this process finds them; the run is told where they are.
    """
    reading = {
        "files": [str(file.absolute()) for file in files], "full": full, "accept_columns": accept_columns,
        "discard": list(discard),
    }  # fmt: skip
    return _run(mill, source, {"raw_contacts": reading}, force=force)


def go_on(mill: Installation, source: SourceRow) -> dict[str, Any]:
    """Validate, load and publish what is kept already. Out: the summary."""
    return _run(mill, source, {}, force=False, only=AFTER_READING)


def again(
    mill: Installation, source: SourceRow, *, rejected: bool = False, batch: int = 0, force: bool = False
) -> dict[str, Any]:
    """Divide every batch anew, or one of them, by the rules of today, and put what they say now in the place of what
    they said. Out: the summary.

    In: rejected: only those with rejected rows.
    """
    config = {"again": True, "retry": rejected, "batch": batch}
    return _run(mill, source, {"validate_contacts": config}, force=force, only=AFTER_READING)


def _run(
    mill: Installation,
    source: SourceRow,
    config: Mapping[str, Mapping[str, Any]],
    *,
    force: bool,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    forced = {"contacts": {"force": force}, "validated_contacts_rejects_are_few": {"force": force}}
    key = f"{source.tenant}|{source.slug}"
    problem: RunFailed | None = None
    try:
        found = run_job("ingest", key, config={**config, **forced}, tags={"mailmill/source": key}, only=only, mill=mill)
    except RunFailed as failed:
        found, problem = failed.found, failed
    done = _summary(mill, source, found, force=force)
    said = problem is not None and problem.check is not None and done["withheld"]  # in other words, with what to do
    stopped = "" if problem is None or said else str(problem)
    done["error"] = "\n".join(filter(None, [found.get("raw_contacts", {}).get("broken_off"), stopped])) or None
    return done


def _summary(mill: Installation, source: SourceRow, found: Found, *, force: bool) -> dict[str, Any]:
    raw, validated = found.get("raw_contacts", {}), found.get("validated_contacts", {})
    rejected, loaded = found.get("rejected_contacts", {}), found.get("contacts", {})
    notes = dict.fromkeys([*raw.get("notes", ()), *validated.get("notes", ()), *loaded.get("notes", ())])
    return {
        "source": source.name,
        "read": validated.get("read", 0),
        "accepted": validated.get("dagster/row_count", 0),
        "rejected": rejected.get("dagster/row_count", 0),
        **{name: loaded.get(name, 0) for name in COUNTS},
        "withdrawn": loaded.get("withdrawn", 0),
        "removed": loaded.get("removed", 0),
        "known_before": raw.get("known_before", 0),
        "contacts": loaded.get("dagster/row_count"),
        "reasons": {row["reason"]: row["rows"] for row in rejected.get("reasons", ())},
        "notes": list(notes),
        "refused": raw.get("refused", []),
        "held": [asdict(batch) for batch in mill.ingest.held(source)],
        "withheld": [] if force else _withheld(mill, source),
    }


def _withheld(mill: Installation, source: SourceRow) -> list[dict[str, Any]]:
    return [
        {"id": batch.id, "origin": batch.origin, "read": batch.shown, "rejected": batch.refused}
        for batch in batches.withheld(source, mill.ingest.batches(source, "validated"))
    ]


def show(done: Sequence[Mapping[str, Any]], json: bool) -> None:
    """One import as an object, several as a list."""
    if json:
        answer_json(done[0] if len(done) == 1 else done)
        return
    hidden = ("reasons", "notes", "refused", "held", "withheld", "error")
    answer_table([{name: value for name, value in one.items() if name not in hidden} for one in done])
    for one in done:
        if one["reasons"]:
            rows = [{"rows": n, "reason": reason, "meaning": rejects.REASONS.get(reason, "")}
                    for reason, n in one["reasons"].items()]  # fmt: skip
            answer_table(rows, title=f"{one['source']}: rejected, by reason")
        for note in one["notes"]:
            print(f"note: {note}")


def complain(done: Sequence[Mapping[str, Any]]) -> None:
    """What a person has to look at makes the verb fail, after everything else has been done.

    Raises: Misconfigured.
    """
    said = [text for one in done for text in _complaints(one)]
    if said:
        raise Misconfigured("\n".join(said))


def _complaints(one: Mapping[str, Any]) -> list[str]:
    source = one["source"]
    said = [one["error"]] if one["error"] else []
    if one["refused"]:
        said.append(_refused(one))
    if one["held"]:
        listed = "".join(f"\n  {held['origin']} (batch {held['batch']}): {held['why']}" for held in one["held"])
        either = f", or let it in: `mailmill ingest {source} --accept-columns`"
        said.append(
            f"{len(one['held'])} held, and nothing of it taken in:{listed}\n"
            "  Correct `columns` of the source and apply it"
            f"{either if any(held['readable'] for held in one['held']) else ''}; what is wrong goes by "
            f"`mailmill ingest {source} --discard BATCH`."
        )
    if one["withheld"]:
        names = ", ".join(f"{batch['origin']} (batch {batch['id']})" for batch in one["withheld"])
        said.append(
            f"too many rows of {names} were rejected, so none of them was loaded\n"
            f"  Look at them with `mailmill rejects {source}`, then run this again with --force; a batch that is wrong "
            f"goes by `mailmill ingest {source} --discard BATCH`."
        )
    return said


def _refused(one: Mapping[str, Any]) -> str:
    """What could not be read and why."""
    said = [str(refusal["why"]) for refusal in one["refused"]]
    rest = one["read"] or one["known_before"]
    if len(said) == 1 and not rest:
        return said[0]
    listed = "\n  ".join(said)
    return f"{len(said)} could not be read{'; the rest is taken in' if rest else ''}:\n  {listed}"
