"""The data folder, and the layout it has."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from mailmill.errors import Misconfigured

LAYOUT = "1"


def check(home: Path, *, make: bool = True) -> None:
    """Make the folder, or see that this version works with it; without `make` only see. Raises: Misconfigured."""
    path = home / "version"
    try:
        if not path.exists():
            if not make:
                raise Misconfigured(
                    "there is no installation of mailmill here",
                    place=str(home),
                    remedy="Go to the project's folder, or set MAILMILL_PROJECT; `mailmill apply PATH` begins one.",
                )
            home.mkdir(parents=True, exist_ok=True)
            write_whole(path, LAYOUT + "\n")
        found = path.read_text().strip()
    except OSError as error:
        raise Misconfigured(
            f"the data folder {home} cannot be used: {error.strerror}",
            place="MAILMILL_HOME",
            remedy="Name a folder that this user may write to.",
        ) from None
    if found != LAYOUT:
        raise Misconfigured(
            f"the data folder has layout {found}, this mailmill works with {LAYOUT}",
            place=str(home),
            remedy="Use the mailmill that made it, or restore its backup into a new folder.",
        )


def write_whole(path: Path, text: str) -> None:
    """Put a file, readable by its owner only, in the place of what is there: nobody sees half of it, and of processes
    that write it at once the last one's stays. Raises: OSError."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False) as file:
        try:
            file.write(text)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
