"""What the verbs about campaigns and suppressions have to do, apart from how it is shown."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from mailmill.errors import Misconfigured
from mailmill.pipelines.target import windows

MAX_FILE_BYTES = 256 * 2**20


def person() -> str:
    """Who types, for the audit."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "command line"


def moment(text: str, time_zone: str) -> datetime:
    """A time a person typed; without an offset it is the tenant's local time.

    Raises: Misconfigured when it is no time.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(
            f"{text!r} is no time", remedy="Write 2026-12-01T09:00, or with an offset 2026-12-01T09:00+01:00."
        ) from None
    return windows.instant(at, ZoneInfo(time_zone)) if at.tzinfo is None else at.astimezone(UTC)


def lines(path: Path) -> list[str]:
    """The lines of a text file; of a CSV the first column.

    Raises: Misconfigured when it cannot be read as UTF-8.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Misconfigured(f"larger than {MAX_FILE_BYTES >> 20} MiB", place=str(path), remedy="Split it.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Misconfigured(f"cannot be read: {error.strerror}", place=str(path)) from None
    except UnicodeDecodeError:
        raise Misconfigured("is not text in UTF-8", place=str(path), remedy="Save it in this encoding.") from None
    found = [line.split(",")[0].split(";")[0].strip().strip('"') for line in text.splitlines()]
    return ["", *found[1:]] if found and found[0].lower() in ("email", "e-mail", "address", "mail") else found
