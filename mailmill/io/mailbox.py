"""Mail that came to a mailbox: message files, and Maildirs, whose unread mail is marked as seen once it was dealt with.

Source: https://cr.yp.to/proto/maildir.html: `new` holds what no program has looked at, `cur` the rest, with flags. An
IMAP server moves what has come as soon as anybody opens the mailbox, whether they read it or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailmill.errors import Misconfigured

HEAD_BYTES = 256 * 1024  # only headers are looked at
_FLAGS = ":2,"  # behind it a name in `cur` says what became of a message: S seen, T deleted, F flagged


@dataclass(frozen=True, slots=True)
class Letter:
    """One message. `head` is its beginning, with the whole header."""

    head: bytes
    file: Path

    def done(self, flags: Literal["S", "FS"]) -> None:
        """Mark it in its Maildir: seen, or flagged too, for a person to look at. A plain file stays."""
        if self.file.parent.name in ("new", "cur"):
            name, _, had = self.file.name.partition(_FLAGS)
            marked = f"{name.partition(':')[0]}{_FLAGS}{''.join(sorted({*had, *flags}))}"
            with suppress(FileNotFoundError):  # another run, or a mail program, was quicker
                self.file.rename(self.file.parent.parent / "cur" / marked)


def letters(path: Path) -> Iterator[Letter]:
    """The unread mail of a Maildir in the order of its names, new mail first, or the one message of a file.

    Raises: Misconfigured when it is neither, or cannot be read.
    """
    try:
        if not path.is_dir():
            yield Letter(_head(path), path)
            return
        if not (path / "new").is_dir() or not (path / "cur").is_dir():
            raise Misconfigured("is no Maildir: it has no folders new and cur", place=str(path))
        for file in [*sorted((path / "new").iterdir()), *sorted((path / "cur").iterdir())]:
            flags = file.name.partition(_FLAGS)[2]
            if not file.name.startswith(".") and not {"S", "T"} & set(flags) and file.is_file():
                with suppress(FileNotFoundError):  # it has another name by now, and is found by that the next time
                    yield Letter(_head(file), file)
    except OSError as error:
        raise Misconfigured(f"cannot be read: {error.strerror}", place=str(error.filename or path)) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
