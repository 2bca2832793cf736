"""An address weighed: verdict, reason and score, from its own letters, its domain's name and what DNS said of that.

The reason is the gravest one; the score counts them all, so that among risky addresses the better ones come first.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from mailmill.pipelines.ingest import providers
from mailmill.pipelines.ingest.domains import DOMAINS_SCHEMA, NO_MAIL
from mailmill.pipelines.ingest.wordlists import role_accounts

Verdict = Literal["valid", "risky", "invalid"]
JUDGED_SCHEMA = pl.Schema(
    {
        "domain": pl.String(),  # null without an address
        "provider": pl.String(),  # who runs the mailbox: by the MX where it is known, else by the big ones' names
        "verdict": pl.String(),
        "verdict_reason": pl.String(),  # a code of rejects.REASONS, DOMAIN_REASONS or RISKS; null when valid
        "score": pl.Int16(),  # 0 to 100, 0 when invalid, null without an address
        "suggestion": pl.String(),  # the address that was probably meant
    }
)
DOMAIN_REASONS = {
    "domain_not_found": "DNS has no such domain (NXDOMAIN)",
    "domain_refuses_mail": "the domain says that it takes no mail (null MX, RFC 7505)",
    "domain_without_mail": "the domain exists and has neither a mail exchanger nor an address record",
}
IMPOSSIBLE = "domain_impossible"  # of rejects.REASONS; other than those of syntax it hangs on a list, which may grow
RISKS = {  # the gravest first
    "reserved_domain": "the domain is set aside for examples, tests or private networks (RFC 2606 and others)",
    "disposable_domain": "the mailbox is made to be thrown away",
    "likely_typo": "the domain looks like a slip in a big provider's name; the suggestion says which",
    "quoted_local_part": 'the part before the @ is quoted ("…"@…), which many relays refuse',
    "role_address": "the address belongs to a function, not to a person",
    "needs_smtputf8": "the part before the @ is not ASCII; only relays with SMTPUTF8 take it (RFC 6531)",
}
# what an address loses of its 100 points; the least that a usable one keeps is 1
COSTS = {
    "reserved_domain": 80,
    "disposable_domain": 70,
    "likely_typo": 60,
    "quoted_local_part": 40,
    "role_address": 30,
    "needs_smtputf8": 25,
    "free_provider": 5,
}
DOMAIN_COSTS = {"mx": 0, "implicit_mx": 15, "unknown": 20, "unasked": 10}
_SIGNS = tuple(RISKS)


def judged(contacts: pl.DataFrame, domains: pl.DataFrame | None = None) -> pl.DataFrame:
    """Contacts as today's lists and DNS see them.

    In:     contacts with email (as `addresses.examine` gives it, or null), verdict, verdict_reason; domains as
            DOMAINS_SCHEMA, None or without a domain where DNS was not asked for it.
    Out:    JUDGED_SCHEMA, one row a contact in the same order. An address that its letters make invalid stays so;
            without an address verdict and reason stay as they are.
    """
    local = pl.col("email").str.replace(r"@[^@]*$", "")
    # "info"@x.org is info@x.org; elsewhere than in a quoted part neither quotes nor backslashes can be
    bare = local.str.to_lowercase().str.strip_chars('"').str.replace_all("\\", "", literal=True)
    parts = contacts.select(
        local=local, local_key=bare, domain=pl.col("email").str.extract(r"@([^@]*)$"),
        fault=pl.when(pl.col("verdict") == "invalid").then(
            pl.when(~pl.col("verdict_reason").is_in([*DOMAIN_REASONS, IMPOSSIBLE])).then("verdict_reason")),
        before="verdict", reason_before="verdict_reason",
    )  # fmt: skip
    weighed_ = weighed(parts, domains)
    mailed = pl.col("domain").is_not_null()
    return weighed_.select(
        "domain",
        "provider",
        verdict=pl.when(mailed).then("verdict").otherwise("before"),
        verdict_reason=pl.when(mailed).then("verdict_reason").otherwise("reason_before"),
        score=pl.when(mailed).then("score"),
        suggestion="suggestion",
    ).match_to_schema(JUDGED_SCHEMA)


def weighed(parts: pl.DataFrame, domains: pl.DataFrame | None = None) -> pl.DataFrame:
    """`parts` with provider, verdict, verdict_reason, score, suggestion; in the same order.

    In: local, local_key, domain (lower case, ASCII; null where it cannot be read), fault (a syntax reason or null).
    """
    rows = parts.join(_facts(parts["domain"], domains), on="domain", how="left", maintain_order="left")
    mailbox = pl.col("local_key").str.splitn("+", 2).struct.field("field_0")
    rows = rows.with_columns(
        reserved_domain="reserved",
        disposable_domain="disposable",
        likely_typo=pl.col("suggestion").is_not_null(),
        quoted_local_part=pl.col("local").str.starts_with('"'),
        role_address=mailbox.is_in(list(role_accounts())),
        needs_smtputf8=pl.col("local").str.len_bytes() > pl.col("local").str.len_chars(),
    )
    risk = pl.coalesce(pl.when(pl.col(sign)).then(pl.lit(sign)) for sign in _SIGNS)
    reason = pl.coalesce("fault", "no_mail", risk)
    lost = pl.sum_horizontal(
        "domain_cost",
        *(pl.when(pl.col(sign)).then(COSTS[sign]).otherwise(0) for sign in _SIGNS),
    )
    wrong = pl.col("fault").is_not_null() | pl.col("no_mail").is_not_null()
    return rows.with_columns(
        verdict_reason=reason,
        verdict=pl.when(wrong).then(pl.lit("invalid")).when(risk.is_not_null()).then(pl.lit("risky"))
        .otherwise(pl.lit("valid")),
        score=pl.when(wrong).then(0).otherwise((100 - lost).clip(1, 100)).cast(pl.Int16),
        suggestion=pl.concat_str("local", pl.lit("@"), "suggestion"),
    ).drop("reserved", "disposable", "no_mail", "domain_cost", *_SIGNS)  # fmt: skip


def _facts(domains: pl.Series, looked_up: pl.DataFrame | None) -> pl.DataFrame:
    """Per distinct domain: provider, reserved, disposable, suggestion, no_mail (a reason), domain_cost."""
    facts = providers.named(domains.drop_nulls().unique())
    if looked_up is None:
        looked_up = pl.DataFrame(schema=DOMAINS_SCHEMA)
    known = looked_up.select("domain", "state", by_mx="provider")
    facts = facts.join(known, on="domain", how="left")
    free = pl.when(pl.col("owner").is_not_null()).then(COSTS["free_provider"]).otherwise(0)
    # a big provider's domain takes mail, whether DNS was asked or not
    state = pl.coalesce("state", pl.when(pl.col("owner").is_not_null()).then(pl.lit("mx")), pl.lit("unasked"))
    # what DNS has found an exchanger for has a top-level domain, newer than the list or the resolver's own
    found = pl.col("state").is_in(["mx", "implicit_mx"]).fill_null(False)
    # what looks like a slip in a provider's name is mailed or not as the operator likes
    impossible = ~pl.col("rooted") & pl.col("suggestion").is_null() & ~found
    no_mail = pl.col("state").replace_strict(NO_MAIL, default=None, return_dtype=pl.String)
    return facts.select(
        "domain",
        provider=pl.coalesce("by_mx", "owner"),
        reserved="reserved",
        disposable="disposable",
        suggestion="suggestion",
        no_mail=pl.when(~pl.col("reserved")).then(pl.coalesce(no_mail, pl.when(impossible).then(pl.lit(IMPOSSIBLE)))),
        domain_cost=state.replace_strict(DOMAIN_COSTS, default=0, return_dtype=pl.Int32) + free,
    )
