"""What an exchange tells whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass

from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.envelopes import Envelope


@dataclass(slots=True)
class Ready:
    """The relay waits for the body: call `body`, or drop the connection."""

    envelope: Envelope


@dataclass(slots=True)
class Answered:
    envelope: Envelope
    answer: Answer


@dataclass(slots=True)
class Idle:
    """Nothing is under way: call `begin`, or close."""


@dataclass(slots=True)
class Broken:
    """The connection is of no use any more: the relay says goodbye (421) or speaks no SMTP."""

    why: str


Event = Ready | Answered | Idle | Broken
