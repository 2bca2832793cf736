"""The small lists that ship with mailmill: role accounts, disposable domains, countries, languages."""

from __future__ import annotations

from functools import cache
from importlib import resources


def _lines(name: str) -> list[str]:
    text = resources.files("mailmill.pipelines.ingest").joinpath("data", name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


@cache
def role_accounts() -> frozenset[str]:
    """Local parts, lower case, that name a function and no person."""
    return frozenset(_lines("role_accounts.txt"))


@cache
def disposable_domains() -> frozenset[str]:
    """Domains, lower case and IDNA-encoded, whose mailboxes are thrown away."""
    return frozenset(_lines("disposable_domains.txt"))


def word_lists() -> str:
    """Every list that an address's verdict hangs on, as one text."""
    names = ("role_accounts.txt", "disposable_domains.txt", "mail_providers.txt", "real_domains.txt",
             "top_domains.txt")  # fmt: skip
    return "\n".join(line for name in names for line in _lines(name))


@cache
def mail_providers() -> dict[str, str]:
    """Domain of mailboxes for everybody -> the provider's name."""
    return _owners("mail_providers.txt")


@cache
def mx_suffixes() -> dict[str, str]:
    """End of a mail exchanger's host name -> the provider's name."""
    return _owners("mx_suffixes.txt")


@cache
def real_domains() -> frozenset[str]:
    """Domains that look like a slip in a provider's name and are none."""
    return frozenset(_lines("real_domains.txt"))


@cache
def top_domains() -> frozenset[str]:
    """Top-level domains that the root zone has, lower case and IDNA-encoded."""
    return frozenset(_lines("top_domains.txt"))


@cache
def countries() -> dict[str, str]:
    """Code or name of a country in lower case -> its ISO 3166-1 alpha-2 code."""
    return _names("countries.txt")


@cache
def languages() -> dict[str, str]:
    """Code or name of a language in lower case -> its ISO 639-1 code."""
    return _names("languages.txt")


def _owners(name: str) -> dict[str, str]:
    pairs = (line.split("|") for line in _lines(name))
    return {domain: owner for owner, domains in pairs for domain in domains.split()}


def _names(name: str) -> dict[str, str]:
    known: dict[str, str] = {}
    for line in _lines(name):
        code, *others = line.split("|")
        for word in (code, *others):
            known[word.casefold()] = code
    return known
