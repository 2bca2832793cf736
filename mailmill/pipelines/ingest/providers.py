"""What a domain's name says of its mailboxes, without asking anybody: whose they are, whether mail can get there.

The lists are small text files in data/; each says a thing about names of domains, lower case and IDNA-encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mailmill.pipelines.ingest import typos
from mailmill.pipelines.ingest.wordlists import disposable_domains, mail_providers, mx_suffixes, top_domains

NAMES_SCHEMA = pl.Schema(
    {
        "domain": pl.String(),
        "owner": pl.String(),  # provider that the name itself gives away; null for most
        "reserved": pl.Boolean(),
        "rooted": pl.Boolean(),  # its top-level domain is in the root zone, as far as data/top_domains.txt knows
        "disposable": pl.Boolean(),
        "suggestion": pl.String(),  # the big provider's domain that may have been meant
    }
)
# RFC 2606, 6761, 6762 (local; in appendix G what private networks use), 7686 (onion), 8375 (home.arpa), 9476 (alt);
# `internal` was set aside by ICANN in 2024, which delegates neither corp nor home nor mail (resolution 2018.02.04.12)
RESERVED_TOP = ("test", "invalid", "localhost", "example", "local", "localdomain", "internal", "onion", "alt", "arpa",
                "intranet", "private", "corp", "home", "lan", "mail")  # fmt: skip
_RESERVED = rf"\.(?:{'|'.join(RESERVED_TOP)})$|(?:^|\.)example\.(?:com|net|org)$"


def named(domains: pl.Series) -> pl.DataFrame:
    """What the names alone say. In: distinct domains, lower case, ASCII. Out: NAMES_SCHEMA, a row a domain."""
    domain = pl.col("domain")
    return pl.DataFrame({"domain": domains}, schema={"domain": pl.String}).select(
        domain,
        owner=domain.replace_strict(mail_providers(), default=None, return_dtype=pl.String),
        reserved=domain.str.contains(_RESERVED),
        rooted=domain.str.replace(r"^.*\.", "").is_in(list(top_domains())),
        disposable=_below(domain, disposable_domains()),
        suggestion=typos.suggestion(domain),
    ).match_to_schema(NAMES_SCHEMA)  # fmt: skip


def _below(domain: pl.Expr, names: frozenset[str]) -> pl.Expr:
    """Whether the domain is one of these or a direct child of one (x.mailinator.com is the same service)."""
    return domain.is_in(list(names)) | domain.str.replace(r"^[^.]*\.", "").is_in(list(names))


def provider(exchangers: Sequence[str]) -> str | None:
    """Who runs the mailboxes, by the preferred mail exchanger that is known. In: host names, the preferred first."""
    for host in exchangers:
        labels = host.lower().rstrip(".").split(".")
        for start in range(len(labels)):
            found = mx_suffixes().get(".".join(labels[start:]))
            if found:
                return found
    return None
