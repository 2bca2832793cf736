"""docs/validation.md lists every reason that an address may get, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from mailmill.pipelines.ingest import verdicts
from mailmill.pipelines.ingest.rejects import REASONS

PAGE = Path(__file__).parents[3] / "docs" / "validation.md"
ADDRESS = ("address_without_at", "several_addresses", "local_part_syntax", "address_too_long", "domain_syntax",
           "domain_without_dot", "domain_literal", "domain_idna", "domain_impossible")  # fmt: skip


def rows() -> list[str]:
    """The table as it has to be."""
    made = [f"| `{reason}` | invalid |  | {REASONS[reason]} |" for reason in ADDRESS]
    made += [f"| `{reason}` | invalid |  | {meaning} |" for reason, meaning in verdicts.DOMAIN_REASONS.items()]
    return made + [f"| `{sign}` | risky | {verdicts.COSTS[sign]} | {why} |" for sign, why in verdicts.RISKS.items()]


def test_the_page_lists_every_reason_and_no_other() -> None:
    found = re.search(r"<!-- reasons -->\n(.*?)\n<!-- /reasons -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found and found[1].splitlines()[2:] == rows()


def test_the_page_names_every_state_of_a_domain() -> None:
    from mailmill.pipelines.ingest.domains import STATES

    text = PAGE.read_text(encoding="utf-8")
    assert [state for state in STATES if f"`{state}`" not in text] == []


def test_the_page_counts_the_scores_as_the_code_does() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    points = {state: 100 - cost for state, cost in verdicts.DOMAIN_COSTS.items()}
    assert f"{points['mx']} where DNS names a mail exchanger" in text
    assert f"{points['implicit_mx']} where there is only a host" in text
    assert f"{points['unasked']} where DNS was not asked" in text
    assert f"{points['unknown']} where it gave no answer" in text
    assert f"takes away {verdicts.COSTS['free_provider']}." in text
