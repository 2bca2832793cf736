"""The data folder, and the layout it has."""

from __future__ import annotations

from pathlib import Path

from mailmill.errors import Misconfigured

LAYOUT = "1"


def check(home: Path) -> None:
    """Make the folder, or see that this version works with it. Raises: Misconfigured."""
    path = home / "version"
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            path.write_text(LAYOUT + "\n")
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
