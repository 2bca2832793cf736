"""A delivery event: one normalised, immutable sign of what became of a message.

On the event log it is one JSON object in UTF-8, without newlines:

    {"event_id": "32 hex digits", "tenant": 1, "campaign": 2, "message": 3, "kind": "opened", "at": 1790000000000,
     "link": null, "user_agent": null, "ip": null, "code": null, "reason": null, "attempt": null, "transport": null}

`transport` is its id, as a number or as text; `reason` of a bounce or failure the name of its class (bounces.py).
`at` is when it happened, epoch milliseconds; `link` the ordinal of a clicked link; `ip` is truncated (/24, /48); no
address of a person is ever in an event. The same thing that happened has the same event_id, whoever reports it.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

Kind = Literal[
    "accepted", "failed", "delivered", "bounced_soft", "bounced_hard", "complained",
    "opened", "clicked", "unsubscribed", "replied", "forwarded", "machine_opened", "machine_clicked", "deferred",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
REPEATING: tuple[Kind, ...] = ("opened", "clicked", "machine_opened", "machine_clicked", "deferred")
MAX_EVENT_BYTES = 256 * 1024  # of one record; Kafka's own limit is 1 MiB


def event_id(*parts: str | int) -> str:
    """The id of an event from what makes it this event: provider and the provider's id, or message, kind and time.

    Out: 32 hex digits, uniformly distributed (the fold keeps 56 of its bits, within one message).
    """
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
