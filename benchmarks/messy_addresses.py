"""Addresses as they stand in people's lists: mostly right, and wrong in every way that is seen.

One in seven has a domain in another script, of which a list knows far fewer than of the others.
"""

from __future__ import annotations

import random

FIRST = (
    "anna",
    "bob",
    "carla",
    "dmitri",
    "eva",
    "fritz",
    "giulia",
    "hans",
    "ines",
    "jürgen",
    "søren",
    "renée",
    "info",
    "sales",
)
LAST = ("lee", "meier", "rossi", "o'neil", "van.dyk", "smith-jones", "garcia", "novak", "kim", "müller", "x")
HOSTS = (
    "gmail.com",
    "GMX.de",
    "outlook.com",
    "firm-{n}.com",
    "mail{n}.co.uk",
    "bücher-{few}.de",
    "uni-{n}.edu",
    "gmial.com",
    "mailinator.com",
    "shop{n}.example.org",
    "пример{few}.com",
    "xn--bcher-kva.de",
    "a-{n}.info",
    "box{n}.test",
)
BROKEN = (
    "{local}",
    "{local}@",
    "@{host}",
    "{local}@@{host}",
    "{local}@{host}@{host}",
    ".{local}@{host}",
    "{local}.@{host}",
    "{local}..x@{host}",
    "{local} x@{host}",
    "{local}@-{host}",
    "{local}@{host}-",
    "{local}@a_b.{host}",
    "{local}@localhost",
    "{local}@[192.0.2.1]",
    "{local}@192.0.2.1",
    "{local}@{host}..com",
    "{local},x@{host}",
    "{local}@x.c",
    "{local}@{host} {local}@{host}",
    "x" * 70 + "@{host}",
    "{local}@" + "d" * 64 + ".com",
    "{local}@" + "d." * 130 + "com",
    "{local}(note)@{host}",
    "{local}\x00@{host}",
    "{local}@☃.com",
    "n/a",
    "-",
    "http://{host}",
    "{local}[at]{host}",
    "{local}@xn--zz-.com",
    "{local}@a--b.com",
)
DRESSED = (
    "  {local}@{host} ",
    "{first} {last} <{local}@{host}>",
    "mailto:{local}@{host}",
    "{local}@{host}.",
    "<{local}@{host}>",
    '"{first}"@{host}',
    '"a b"@{host}',
    "{local}+tag@{host}",
    "{local}@{host};",
    "{local}\u200b@{host}",
)


def sample(rows: int, *, seed: int = 7, broken: float = 0.15, dressed: float = 0.15) -> list[str]:
    """So many typed addresses, the same ones for the same seed."""
    dice = random.Random(seed)
    return [_one(dice, broken, dressed) for _ in range(rows)]


def _one(dice: random.Random, broken: float, dressed: float) -> str:
    n = dice.randrange(5000)
    first, last = dice.choice(FIRST), dice.choice(LAST)
    local = dice.choice((first, f"{first}.{last}", f"{first}{n}", f"{first[0]}_{last}", f"{first.title()}.{last}{n}"))
    names = {
        "local": local,
        "host": dice.choice(HOSTS).format(n=n, few=n % 100),
        "first": first.title(),
        "last": last.title(),
    }
    kind = dice.random()
    if kind < broken:
        return dice.choice(BROKEN).format(**names)
    if kind < broken + dressed:
        return dice.choice(DRESSED).format(**names)
    return "{local}@{host}".format(**names)
