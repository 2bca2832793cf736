"""Whether the contacts that are there have what templates print; apart, since it reads contacts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.configuration import content
from mailmill.pipelines.configuration.documents import Declared, Problem
from mailmill.pipelines.target import audiences, variants


def check(declared: Iterable[Declared], contacts: Mapping[str, pl.LazyFrame]) -> list[Problem]:
    """What to warn of: merge fields that are neither a contact's column nor a custom field of any contact.

    It is no mistake: the contacts with this field may come later. The start of a campaign refuses it.

    In:     templates that `content.check` has passed; contacts by the tenant's slug. A tenant without any is left out.
    """
    found: list[Problem] = []
    for one in declared:
        tenant = one.key[1]
        frame = contacts.get(tenant)
        if frame is None or not frame.head(1).collect().height:
            continue
        for position, spec in content.contents(one):
            _, _, facts = variants.checked(spec.subject, spec.html or "", spec.text)
            for name, known in audiences.unknown_fields(facts.merge_fields, frame).items():
                message = f"no contact of {tenant} has a field {name!r}. {known}"
                found.append(content.at(one, Misconfigured(message, place=facts.places[name]), position))
    return found
