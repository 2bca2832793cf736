"""What long-running verbs log on the terminal: one line a record, with the facts that were logged beside its words."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Literal

from mailmill.errors import Misconfigured

_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # a line stays a line, and a terminal is told nothing


class Facts(logging.Formatter):
    """Appends the `extra` of mailmill's own records: `the fold waits: why=PostgreSQL does not answer, pause_s=0.1`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line, facts = super().formatMessage(record), _facts(record)
        if not facts:
            return line
        told = ", ".join(f"{name}={' '.join(_CONTROL.sub(' ', str(value)).split())}" for name, value in facts.items())
        return f"{line}: {told}"


class Json(logging.Formatter):
    """One JSON object a line: at, level, logger, said, and the facts of mailmill's own records under their names."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {"at": at, "level": record.levelname, "logger": record.name, "said": record.getMessage()}
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(_facts(record) | told, default=str, ensure_ascii=False)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What others put beside their words is theirs."""
    if record.name.partition(".")[0] != "mailmill":
        return {}
    return {name: value for name, value in record.__dict__.items() if name not in _KNOWN}


def start(level: str, format: Literal["text", "json"] = "text") -> None:
    """Log to stderr from this level on.

    Raises: Misconfigured when there is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise Misconfigured(
            f"there is no level {level!r}", place="MAILMILL_LOG_LEVEL", remedy="Use DEBUG, INFO, WARNING or ERROR."
        )
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if format == "json" else Facts())
    logging.basicConfig(level=number, handlers=[handler])
