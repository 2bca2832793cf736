"""What the sandbox does with whom: an ordered list of rules, the first that fits decides."""

from __future__ import annotations

import hashlib
import re
from fnmatch import translate
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from mailmill.errors import Misconfigured

Stage = Literal["rcpt", "dot"]
Do = Literal["deliver", "bounce_later", "complain", "open", "click", "unsubscribe", "reply"]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Defer(Form):
    """4xx for the first `times` attempts of a message, then it is taken."""

    code: int = Field(default=451, ge=400, le=499)
    enhanced: str = Field(default="4.2.0", pattern=r"^4\.\d{1,3}\.\d{1,3}$")
    text: str = "try again later"
    times: int = Field(default=1, ge=1)
    stage: Stage = "rcpt"


class Reject(Form):
    """5xx, always."""

    code: int = Field(default=550, ge=500, le=599)
    enhanced: str = Field(default="5.1.1", pattern=r"^5\.\d{1,3}\.\d{1,3}$")
    text: str = "no such user"
    stage: Stage = "rcpt"


class Hang(Form):
    """No answer for this long, then the message is taken if the client is still there."""

    seconds: float = Field(default=30, gt=0, le=3600)
    stage: Stage = "rcpt"


class DropAfterDot(Form):
    """The link is cut after the final dot without an answer; `taken` says whether the relay has the message."""

    taken: bool = True


class Effect(Form):
    """Something that happens to a message that was taken, `after_s` seconds later (two numbers: somewhere between)."""

    do: Do
    after_s: float | tuple[float, float] = 0.2
    kind: Literal["hard", "soft"] = "hard"  # of a bounce
    code: int | None = Field(default=None, ge=400, le=599)
    enhanced: str | None = Field(default=None, pattern=r"^[45]\.\d{1,3}\.\d{1,3}$")
    text: str | None = None
    times: int = Field(default=1, ge=1, le=100)  # opens and clicks
    machine: bool = False  # an open or click by a scanner instead of a person

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`open` is short for `{do: open}`."""
        return {"do": value} if isinstance(value, str) else value

    def delay_s(self, recipient: str) -> float:
        if isinstance(self.after_s, tuple):
            low, high = self.after_s
            return low + (high - low) * chance(f"delay {self.do}", recipient)
        return self.after_s

    def bounce(self) -> tuple[int, str, str]:
        """Code, enhanced code and text of a bounce."""
        usual = (550, "5.1.1", "no such user") if self.kind == "hard" else (452, "4.2.2", "mailbox full")
        return self.code or usual[0], self.enhanced or usual[1], self.text or usual[2]


class Rule(Form):
    """Fits when everything it asks for fits; without an answer it takes the message."""

    name: str
    match: str | None = None  # glob on the recipient, in any case
    regex: str | None = None  # searched in the recipient
    share: float | None = Field(default=None, ge=0, le=1)  # of the recipients that get as far as this rule
    defer: Defer | None = None
    reject: Reject | None = None
    hang: Hang | None = None
    drop_after_dot: DropAfterDot | None = None
    then: tuple[Effect, ...] = ()
    report_delivered: bool = True  # unless it bounces later

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        answers = [self.defer, self.reject, self.hang, self.drop_after_dot]
        if sum(answer is not None for answer in answers) > 1:
            raise ValueError("a rule has one of defer, reject, hang, drop_after_dot")
        if self.reject is not None and self.then:
            raise ValueError("what is rejected has no `then`")
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"regex: {error}") from None
        return self

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        texts = [translate(self.match)] if self.match is not None else []
        return [re.compile(text, re.IGNORECASE) for text in [*texts, *([self.regex] if self.regex is not None else [])]]

    def fits(self, recipient: str) -> bool:
        return all(pattern.search(recipient) for pattern in self._patterns) and (
            self.share is None or chance(self.name, recipient) < self.share
        )

    @cached_property
    def effects(self) -> tuple[Effect, ...]:
        """What follows when it was taken; a delivery is reported unless it bounces."""
        named = {effect.do for effect in self.then}
        if not self.report_delivered or named & {"bounce_later", "deliver"}:
            return self.then
        return (Effect(do="deliver", after_s=0.1), *self.then)


EVERYONE = Rule(name="everyone else")


class Rules(Form):
    rules: tuple[Rule, ...]

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """A rule without a name is called by its place; shares are drawn by name, each on its own."""
        rules = value.get("rules") if isinstance(value, dict) else None
        if not isinstance(rules, list):
            return value
        named = [{"name": f"rule {n}", **one} if isinstance(one, dict) else one for n, one in enumerate(rules, 1)]
        return {**value, "rules": named}

    def of(self, recipient: str) -> Rule:
        """The first rule that fits; everyone else is delivered to."""
        return next((rule for rule in self.rules if rule.fits(recipient)), EVERYONE)


def chance(name: str, recipient: str) -> float:
    """A number in [0, 1) that is always the same for this name and recipient."""
    digest = hashlib.blake2b(f"{name}\x1f{recipient.lower()}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def read_rules(path: Path | None = None) -> Rules:
    """The rules of a file; without one those that come with mailmill.

    Raises: Misconfigured naming file, line and field.
    """
    place = str(path) if path else "default.yaml"
    try:
        text = (
            path.read_text("utf-8")
            if path
            else resources.files(__package__).joinpath("default.yaml").read_text("utf-8")
        )
        document = YAML(typ="rt").load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot be read: {error}", place=place) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Misconfigured(f"is no YAML: {error.problem}", place=f"{place}:{line}") from None
    try:
        return Rules.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        remedy = "docs/sandbox.md shows what a rule may hold."
        message = f"{where}: {first['msg']}"
        raise Misconfigured(message, place=f"{place}:{_line(document, first['loc'])}", remedy=remedy) from None


def _line(document: Any, path: tuple[int | str, ...]) -> int:
    """The line of the rule an error is in."""
    if len(path) >= 2 and path[0] == "rules" and isinstance(path[1], int):
        return int(document["rules"].lc.item(path[1])[0]) + 1
    return 1
