"""Files of addresses, as people hand them to a verb."""

from __future__ import annotations

from pathlib import Path

from mailmill.errors import Misconfigured

MAX_FILE_BYTES = 256 * 2**20


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
