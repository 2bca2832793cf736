"""A campaign's contents: one of each template for whom nothing else fits, others by language and category, and
templates by share (A/B). Which of them a recipient gets is decided once, and frozen with the audience.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.target import plain, styles, templates
from mailmill.pipelines.target.templates import TemplateFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One content. `language` and `category` say for whom it is; both None: for whom no other of its template is."""

    template: str
    language: str | None
    category: str | None
    subject: str
    html: str  # as it is sent: CSS in the elements
    text: str  # as it is sent: derived from the HTML when nobody wrote one
    facts: TemplateFacts

    @property
    def label(self) -> str:
        """As people name it: template, template:de, template:de:press."""
        return ":".join(part for part in (self.template, self.language, self.category) if part)


def checked(subject: str, html: str, text: str | None) -> tuple[str, str, TemplateFacts]:
    """HTML and text as they are sent, and what the content needs.

    Raises: Misconfigured with part and line of the first thing that is wrong.
    """
    templates.check_size("html", html)  # before it is read
    shown = plain.plain_text(html) if text is None else text
    facts = templates.check(subject, html, shown)
    sent = styles.inlined(html)
    if sent != html:
        if text is None:  # now it shows what a <style> hides
            shown = plain.plain_text(sent)
        after = templates.check(subject, sent, shown)
        if set(after.merge_fields) != set(facts.merge_fields) or after.links != facts.links:
            raise Misconfigured(
                "putting the CSS into the elements would change its links or merge fields", place="html",
                remedy="Close every element, and keep Jinja2 out of the places between a tag's attributes.",
            )  # fmt: skip
    return sent, shown, facts


def of(slug: str, template: Mapping[str, Any]) -> list[Variant]:
    """The contents of a template as applied; the one for everybody else comes first.

    Raises: Misconfigured.
    """
    found = []
    for spec in ({**template, "language": None, "category": None}, *(template.get("variants") or ())):
        html, text, facts = checked(str(spec["subject"]), str(spec["html"] or ""), spec["text"])
        found.append(
            Variant(
                template=slug,
                language=spec["language"],
                category=spec["category"],
                subject=str(spec["subject"]),
                html=html,
                text=text,
                facts=facts,
            )
        )
    return found


def given(shares: Mapping[str, int], applied: Mapping[str, Mapping[str, Any]], tenant: str) -> Contents:
    """What a campaign sends. In: the shares of its templates; those of them that were applied, by slug.

    Raises: Misconfigured for a template that is not there, or cannot be sent.
    """
    variants: list[Variant] = []
    for slug in shares:
        if slug not in applied:
            raise Misconfigured(f"there is no template {tenant}/{slug}", remedy="Apply it, then schedule again.")
        try:
            variants += of(slug, applied[slug])
        except Misconfigured as error:
            raise Misconfigured(str(error), place=f"template {tenant}/{slug}") from None
    return Contents(variants=variants, shares=dict(shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything a campaign may send. `shares`: of each template, in whole numbers."""

    variants: Sequence[Variant]
    shares: Mapping[str, int]

    @property
    def facts(self) -> TemplateFacts:
        """What all of them need together; who of them needs what is asked of each."""
        fields = dict.fromkeys(name for one in self.variants for name in one.facts.merge_fields)
        links = dict.fromkeys(url for one in self.variants for url in one.facts.links)
        places = {name: place for one in reversed(self.variants) for name, place in one.facts.places.items()}
        first = self.variants[0].facts
        return replace(first, merge_fields=tuple(fields), links=tuple(links), places=places)

    def frozen(self) -> list[dict[str, Any]]:
        """As JSON. A link is named by its place among all links of the campaign."""
        ordinals = {url: n for n, url in enumerate(self.facts.links)}
        return [
            {
                "template": one.template, "language": one.language, "category": one.category, "label": one.label,
                "subject": one.subject, "html": one.html, "text": one.text,
                "links": sorted(ordinals[url] for url in one.facts.links),
            }
            for one in self.variants
        ]  # fmt: skip

    def choice(self, campaign_id: int) -> pl.Expr:
        """The number of the variant a contact gets: deterministic, so that a planning that is repeated gives the same.

        In: contacts with contact_id, language and category.
        """
        by_template = {slug: self._fitting(slug) for slug in self.shares}
        drawn = mixed(campaign_id) % sum(self.shares.values())
        slugs, upper = list(self.shares), 0
        chosen = by_template[slugs[-1]]
        for slug in reversed(slugs[:-1]):
            upper = sum(self.shares[one] for one in slugs[: slugs.index(slug) + 1])
            chosen = pl.when(drawn < upper).then(by_template[slug]).otherwise(chosen)
        return chosen.cast(pl.Int16())

    def _fitting(self, slug: str) -> pl.Expr:
        """The first of a template's variants that fits; its fallback is the last to be asked."""
        mine = [(n, one) for n, one in enumerate(self.variants) if one.template == slug]
        found: pl.Expr = pl.lit(mine[0][0])
        for n, one in reversed(mine[1:]):
            found = pl.when(_fits(one)).then(n).otherwise(found)
        return found


def _fits(variant: Variant) -> pl.Expr:
    fits = pl.lit(True)
    if variant.language is not None:
        spoken, asked = pl.col("language").str.to_lowercase(), variant.language.lower()
        fits = (spoken == asked) | spoken.str.starts_with(f"{asked}-")
    if variant.category is not None:
        fits = fits & (pl.col("category").str.to_lowercase() == variant.category.lower())
    return fits.fill_null(False)


def mixed(campaign_id: int) -> pl.Expr:
    """A well-mixed number of contact and campaign (splitmix64), the same in every version of every library."""
    h = pl.col("contact_id").cast(pl.UInt64()) + pl.lit((campaign_id * 0x9E3779B97F4A7C15) % 2**64, pl.UInt64())
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        h = (h ^ (h // 2**bits)) * pl.lit(factor, pl.UInt64())
    return h ^ (h // 2**31)
