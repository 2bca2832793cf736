"""What long-running verbs log on the terminal: one line a record, with the facts that were logged beside its words."""

from __future__ import annotations

import logging
import re

from mailmill.errors import Misconfigured

_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # a line stays a line, and a terminal is told nothing


class Facts(logging.Formatter):
    """Appends the `extra` of mailmill's own records: `the fold waits: why=PostgreSQL does not answer, pause_s=0.1`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        if record.name.partition(".")[0] != "mailmill":  # what others put beside their words is theirs
            return line
        facts = {name: value for name, value in record.__dict__.items() if name not in _KNOWN}
        if not facts:
            return line
        told = ", ".join(f"{name}={' '.join(_CONTROL.sub(' ', str(value)).split())}" for name, value in facts.items())
        return f"{line}: {told}"


def start(level: str) -> None:
    """Log to stderr from this level on.

    Raises: Misconfigured when there is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise Misconfigured(
            f"there is no level {level!r}", place="MAILMILL_LOG_LEVEL", remedy="Use DEBUG, INFO, WARNING or ERROR."
        )
    handler = logging.StreamHandler()
    handler.setFormatter(Facts())
    logging.basicConfig(level=number, handlers=[handler])
