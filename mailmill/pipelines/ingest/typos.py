"""Slips in the domains of big mailbox providers: gmial.com -> gmail.com.

A domain is its first label and the rest. Each half is looked up in a table of slips made once, so that a million
domains cost two look-ups each. A slip of the label is one wrong, missing, doubled or exchanged character; in the most
misspelt names also two that fingers make (exchanged, missing, doubled, a neighbour on the keyboard). A slip of the rest
is one of a fixed list: another country's ending is no slip. What exists under a similar name stands in
data/real_domains.txt.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from functools import cache

import polars as pl

from mailmill.pipelines.ingest.wordlists import mail_providers, real_domains

# labels long and odd enough that what looks like them is a slip; 'orange', 'live' or 'sky' are words of their own
MISSPELT = ("googlemail", "protonmail", "btinternet", "rediffmail", "bellsouth", "sbcglobal", "t-online", "comcast",
            "verizon", "wanadoo", "laposte", "bluewin", "freenet", "yandex", "virgilio", "tutanota")  # fmt: skip
MOST_MISSPELT = ("gmail", "yahoo", "hotmail", "outlook", "icloud")
_ENDINGS = {
    "com": ("con", "cmo", "ocm", "co", "cm", "om", "comm", "coom", "ccom", "cim", "cpm", "vom", "xom", "dom", "c0m",
            "cok", "conm", "comn", "com.com", "cin", "coml", "comu", "como", "comc", "clm", "ckm", "col", "cam"),
    "net": ("nte", "ent", "ne", "et", "nett", "nnet", "ner", "met", "bet", "nrt", "nwt"),
    "de": ("ed", "dee", "dde", "dr", "fe", "des", "d"),
    "fr": ("rf", "frr", "ffr", "ft"),
    "it": ("ti", "itt", "iit"),
    "ch": ("hc", "chh"),
    "ru": ("ur", "ruu"),
    "co.uk": ("couk", "co.ku", "co.yk", "c.uk", "co.u", "co.ukk", "com.uk"),
    "com.br": ("combr", "com.rb", "com.b", "con.br"),
}  # fmt: skip
_EXISTING = frozenset({"co", "cm", "om", "ne", "et", "cam", "bet", "com.com"})  # mail.co may well be what was meant
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_ALPHABET = string.ascii_lowercase + string.digits + "-"


def suggestion(domain: pl.Expr) -> pl.Expr:
    """The provider's domain that was most likely meant; null where there is no reason to think so."""
    label, rest = domain.str.extract(r"^([^.]*)\."), domain.str.extract(r"^[^.]*\.(.*)$")
    sure = {slip: ending for slip, ending in endings().items() if slip not in _EXISTING}
    name = _looked_up(label, labels())
    odd = name.is_in([*MOST_MISSPELT, *MISSPELT])
    ending = pl.when(odd).then(_looked_up(rest, endings())).otherwise(_looked_up(rest, sure))
    meant = name + "." + ending
    known = pl.Series(list(mail_providers()))
    exists = domain.is_in(known.implode()) | domain.is_in(list(real_domains()))
    return pl.when(~exists & meant.is_in(known.implode())).then(meant)


def _looked_up(text: pl.Expr, slips: dict[str, str]) -> pl.Expr:
    return text.replace_strict(slips, default=text, return_dtype=pl.String)


@cache
def endings() -> dict[str, str]:
    """Slip -> ending. A slip that is an ending of some provider's own (.it for .ti) is none."""
    own = {domain.partition(".")[2] for domain in mail_providers()}
    return {slip: ending for ending, slips in _ENDINGS.items() for slip in slips if slip not in own}


@cache
def labels() -> dict[str, str]:
    """Slip -> label. A slip that two labels share, or that is a label itself, is none."""
    own = {domain.partition(".")[0] for domain in mail_providers()}
    found: dict[str, str | None] = {}
    for label in (*MOST_MISSPELT, *MISSPELT):
        slips = {*_any_slip(label)}
        if label in MOST_MISSPELT:
            slips |= {twice for once in _finger_slips(label) for twice in _finger_slips(once)}
        for slip in slips - own:
            found[slip] = label if found.get(slip, label) == label else None
    return {slip: label for slip, label in found.items() if label is not None}


def _any_slip(word: str) -> Iterator[str]:
    """Distance one of Damerau and Levenshtein; the first letter gives way to its neighbours only (bmail, cmail …)."""
    yield from _finger_slips(word)
    for at in range(1, len(word) + 1):
        for letter in _ALPHABET:
            yield word[:at] + letter + word[at:]
            if at < len(word):
                yield word[:at] + letter + word[at + 1 :]


def _finger_slips(word: str) -> Iterator[str]:
    """A letter left out, doubled, exchanged with the next, or its neighbour in its place."""
    for at, letter in enumerate(word):
        if at:
            yield word[:at] + word[at + 1 :]
        yield word[:at] + letter + word[at:]
        yield word[:at] + word[at + 1 : at + 2] + letter + word[at + 2 :]
        for near in _neighbours(letter):
            yield word[:at] + near + word[at + 1 :]


@cache
def _neighbours(letter: str) -> str:
    """The keys around a letter, as a keyboard has them (each row stands half a key to the right of the one above)."""
    for row, keys in enumerate(_KEYBOARD):
        at = keys.find(letter)
        if at >= 0:
            around = [(row, at - 1), (row, at + 1), (row - 1, at), (row - 1, at + 1), (row + 1, at), (row + 1, at - 1)]
            return "".join(_KEYBOARD[r][c] for r, c in around if 0 <= r < len(_KEYBOARD) and 0 <= c < len(_KEYBOARD[r]))
    return ""
