"""A/B: what became of each variant, and whether the difference is more than chance. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

KINDS = (
    "planned", "accepted", "failed", "delivered", "bounced_soft", "bounced_hard", "complained", "unsubscribed",
    "opened", "clicked",
)  # fmt: skip
REACTIONS = ("opened", "clicked")
Z = 1.96  # 95 of 100 intervals hold the true share


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of what was accepted, and where the true one probably lies. None: nothing was accepted."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One variant, or a template with all of its variants. Distinct messages."""

    variant: str
    counts: Mapping[str, int]

    def share(self, kind: str) -> Share:
        return share(self.counts[kind], self.counts["accepted"])


def share(hits: int, of: int) -> Share:
    """Source: Wilson's score interval, which holds for few messages and small shares too."""
    if not of:
        return Share(value=None, low=None, high=None)
    p, scale = hits / of, 1 + Z * Z / of
    middle, width = (p + Z * Z / (2 * of)) / scale, Z / scale * sqrt(p * (1 - p) / of + Z * Z / (4 * of * of))
    return Share(value=round(p, 6), low=round(max(0.0, middle - width), 6), high=round(min(1.0, middle + width), 6))


def by_template(rows: Iterable[tuple[str, Tally]]) -> list[Tally]:
    """Whom A/B compares: the templates, each with its variants by language and category. In: (template, variant)."""
    found: dict[str, dict[str, int]] = {}
    for template, tally in rows:
        into = found.setdefault(template, dict.fromkeys(KINDS, 0))
        for kind in KINDS:
            into[kind] += tally.counts[kind]
    return [Tally(variant=name, counts=counts) for name, counts in found.items()]


def ahead(tallies: Sequence[Tally], kind: str) -> str | None:
    """The one whose interval lies above every other's; None while it may be chance."""
    best = max(tallies, key=lambda one: one.share(kind).value or 0.0, default=None)
    if best is None or len(tallies) < 2:
        return None
    low, highs = best.share(kind).low, [one.share(kind).high for one in tallies if one is not best]
    return best.variant if low is not None and all(high is not None and high < low for high in highs) else None
