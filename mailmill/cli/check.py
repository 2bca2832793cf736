"""Verbs about what addresses are worth: check, revalidate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import polars as pl
import typer

from mailmill.cli.app import Json, answer_facts, answer_json, answer_table, app, installation
from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest import addresses, domains, rejects, verdicts
from mailmill.pipelines.ingest.domains import Domain

MEANINGS = {**rejects.REASONS, **verdicts.DOMAIN_REASONS, **verdicts.RISKS}


@app.command()
def check(address: Annotated[str, typer.Argument(help="As somebody typed it.")], json: Json = False) -> None:
    """What an e-mail address is: how it is written and matched, who runs its mailbox, and what it is worth.

    Exit 1 when it is invalid. DNS is asked where MAILMILL_RESOLVER names a server.
    """
    checked = addresses.check(address)
    resolver = installation().resolver
    domain = None
    if checked.domain is not None and resolver is not None:
        [answer] = resolver.lookup([checked.domain])
        domain = domains.settled(None, answer, datetime.now(UTC))
    found = _told(checked, domain, asked=resolver is not None)
    if json:
        answer_json(found)
    else:
        mail = found.pop("mail")
        said = mail | {"exchangers": ", ".join(mail["exchangers"])} if checked.domain else {}
        meaning = MEANINGS.get(found["verdict_reason"] or "", "")
        shown = {"verdict": found["verdict"], "reason": found["verdict_reason"], "meaning": meaning}
        dns = {"state": "DNS", "exchangers": "exchangers", "problem": "note"}
        rest = {name: value for name, value in found.items() if not name.startswith("verdict")}
        answer_facts(shown | rest | {name: said[fact] for fact, name in dns.items() if fact in said})
    if found["verdict"] == "invalid":
        raise typer.Exit(1)


def _told(checked: addresses.Checked, domain: Domain | None, *, asked: bool) -> dict[str, Any]:
    """The answer: what the letters say, then the domain."""
    found: dict[str, Any] = {
        name: getattr(checked, name)
        for name in ("verdict", "verdict_reason", "score", "address", "address_key", "domain", "display_name")
    } | {"provider": None, "suggestion": checked.suggestion}
    if checked.address is not None:
        row = pl.DataFrame(
            {"email": [checked.address], "verdict": [checked.verdict], "verdict_reason": [checked.verdict_reason]},
            schema=dict.fromkeys(("email", "verdict", "verdict_reason"), pl.String()),
        )
        found |= verdicts.judged(row, domains.frame([domain] if domain else [])).row(0, named=True)
    mail = {
        "state": domain.state if domain else "unasked",
        "exchangers": list(domain.exchangers) if domain else [],
        "problem": domain.problem if domain else None if asked else "no DNS is asked: MAILMILL_RESOLVER is not set",
    }
    return found | {"mail": mail}


@app.command()
def revalidate(
    tenant: Annotated[str, typer.Argument(help="The tenant's slug.")],
    domain: Annotated[
        list[str] | None, typer.Option(help="Ask DNS for this one now, due or not; may be given many times.")
    ] = None,
    all_domains: Annotated[bool, typer.Option("--all-domains", help="Ask DNS for every one now.")] = False,
    json: Json = False,
) -> None:
    """Examine a tenant's contacts by today's rules, ask DNS for the domains that are due, and publish what changed."""
    from mailmill.cli.runs import run_job
    from mailmill.io.postgres import campaigns

    with installation().database.transaction() as conn:
        campaigns.tenant_id(conn, tenant)  # that there is one
    asked = {"domains": [_domain(name) for name in domain or ()], "all_domains": all_domains}
    numbers = run_job("revalidate", tenant, config={"revalidated_contacts": asked})["revalidated_contacts"]
    numbers.pop("chart")
    if json:
        answer_json(numbers)
        return
    states, problems = numbers.pop("states"), numbers.pop("problems")
    answer_table([numbers])
    if states:
        answer_table([{"domains": n, "what DNS said": state} for state, n in states.items()])
    if problems:
        answer_table([{"domains": n, "why unknown": problem} for problem, n in problems.items()])
    if not numbers["asked_dns"]:
        print("note: no DNS was asked: MAILMILL_RESOLVER is not set")


def _domain(typed: str) -> str:
    """As domains are kept: in lower case and ASCII."""
    found = addresses.check(f"x@{typed}").domain
    if found is None:
        raise Misconfigured(f"{typed!r} is no domain", place="--domain", remedy="Write it as in firm.example.")
    return found
