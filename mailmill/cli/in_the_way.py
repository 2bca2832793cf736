"""What keeps a person from being mailed after a grant, or after a suppression was taken back: both verbs say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from mailmill.io.lake import Lake
from mailmill.io.postgres import aliases, consents, suppressions


@dataclass(frozen=True, slots=True, kw_only=True)
class InTheWay:
    """Of every address that the tenant's rule makes this person's, those asked by first."""

    suppressed: Sequence[dict[str, Any]]  # in force, for one campaign alone left out; as suppressions.listed
    withdrawn: Sequence[str]  # whose consent is

    @property
    def reasons(self) -> list[str]:
        return sorted({row["reason"] for row in self.suppressed})

    def lines(self, tenant: str) -> list[str]:
        """Each with the verb that ends it."""
        found = dict[tuple[str, str], set[str]]()
        for row in self.suppressed:
            of = "--all" if row["scope"] == "all" else f"--tenant {tenant}"
            found.setdefault((row["address"], of), set()).add(row["reason"])
        said = [f"{key}: still suppressed ({', '.join(sorted(reasons))}) until `mailmill suppress remove {key} {of} …`"
                for (key, of), reasons in found.items()]  # fmt: skip
        granted = "the consent stays withdrawn until `mailmill contacts consent"
        return said + [f"{key}: {granted} {key} grant --tenant {tenant} …`" for key in self.withdrawn]


def of(conn: psycopg.Connection, lake: Lake, tenant_id: int, keys: Sequence[str]) -> InTheWay:
    """In: keys, as contacts.match_key."""
    theirs, now = aliases.counting(conn, lake, tenant_id, keys), datetime.now(UTC)
    held = suppressions.listed(conn, tenant_id=tenant_id, address_keys=theirs)
    in_force = [row for row in held if row["scope"] != "campaign" and (row["expires_at"] or now) >= now]
    return InTheWay(suppressed=in_force, withdrawn=consents.withdrawn(conn, tenant_id, theirs))
