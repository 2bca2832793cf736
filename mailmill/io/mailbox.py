"""Mail that came to a mailbox: message files, and Maildirs, whose new mail is marked as seen once it was dealt with.

Source: https://cr.yp.to/proto/maildir.html: `new` holds what nobody has looked at, `cur` the rest, with flags.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailmill.errors import Misconfigured

HEAD_BYTES = 256 * 1024  # only headers are looked at


@dataclass(frozen=True, slots=True)
class Letter:
    """One message. `head` is its beginning, with the whole header."""

    head: bytes
    file: Path

    def done(self, flags: Literal["S", "FS"]) -> None:
        """Move it out of a Maildir's new mail: seen, or flagged too, for a person to look at. A plain file stays."""
        if self.file.parent.name == "new":
            with suppress(FileNotFoundError):  # another run, or a mail program, was quicker
                self.file.rename(self.file.parent.parent / "cur" / f"{self.file.name.partition(':')[0]}:2,{flags}")


def letters(path: Path) -> Iterator[Letter]:
    """The new mail of a Maildir in the order of its names, or the one message of a file.

    Raises: Misconfigured when it is neither, or cannot be read.
    """
    try:
        if not path.is_dir():
            yield Letter(_head(path), path)
            return
        if not (path / "new").is_dir() or not (path / "cur").is_dir():
            raise Misconfigured("is no Maildir: it has no folders new and cur", place=str(path))
        for file in sorted((path / "new").iterdir()):
            if file.is_file():
                yield Letter(_head(file), file)
    except OSError as error:
        raise Misconfigured(f"cannot be read: {error.strerror}", place=str(error.filename or path)) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
