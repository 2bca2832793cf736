"""Where the embedded PostgreSQL lies and whom it belongs to: its folders, its socket, its passwords, its user."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mailmill.errors import Misconfigured
from mailmill.io.postgres.database import ROLES

SYSTEM_BASE = Path("/var/lib/mailmill")  # where a server started by root puts what an unprivileged user must reach
_PLAIN_PATH = re.compile(r"^[A-Za-z0-9/._-]{1,80}$")  # what a socket folder may be called: no quoting, under 108 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What belongs to the server of a data folder."""

    home: Path

    @property
    def base(self) -> Path:
        """Holds `data` and `log`. For root it lies under /var/lib and `home/postgres`, made here once, points there."""
        link = self.home / "postgres"
        if os.geteuid() != 0 or link.exists():
            return link.resolve() if link.is_symlink() else link
        self.home.mkdir(parents=True, exist_ok=True)
        with self.lock("secrets.lock"):
            if not link.is_symlink():
                # a name of its own: a data folder that was removed and made anew does not meet the cluster of the
                # old one, whose password went with it
                link.symlink_to(SYSTEM_BASE / f"{self._hash()}-{secrets.token_hex(3)}")
        return link.resolve()

    @property
    def socket_dir(self) -> Path:
        """A unix socket's path has to stay below 108 bytes and free of what PostgreSQL's list syntax would read."""
        name = f"mailmill-{os.geteuid()}-{self._hash()}"
        places = (self.base / "s", Path(tempfile.gettempdir()) / name, Path("/tmp") / name)
        return next(place for place in places if _PLAIN_PATH.match(str(place)))

    def _hash(self) -> str:
        return hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:12]

    def secrets(self) -> dict[str, str]:
        """The roles' passwords, made once; processes that need them at the same time get the same."""
        path = self.home / "secrets.json"
        wanted = ("postgres", *(f"mailmill_{role}" for role in ROLES))
        known = _read_json(path)
        if known.keys() >= set(wanted):
            return known
        self.home.mkdir(parents=True, exist_ok=True)
        with self.lock("secrets.lock"):
            known = _read_json(path)
            known |= {name: secrets.token_urlsafe(24) for name in wanted if name not in known}
            temporary = path.with_suffix(".new")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(known, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        return known

    @contextmanager
    def lock(self, name: str = "postgres.lock") -> Iterator[None]:
        """Keep other processes of this data folder out until the block ends."""
        with open(self.home / name, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def make_socket_dir(self, user: pwd.struct_passwd | None) -> None:
        """Make the socket's folder.

        Raises: Misconfigured when somebody else made it, or others may enter it.
        """
        folder = self.socket_dir
        folder.mkdir(mode=0o700, exist_ok=True)
        owners = {os.geteuid(), user.pw_uid if user else os.geteuid()}
        status = folder.lstat()
        # the name of a folder in /tmp can be guessed: one that somebody else made is not entered
        if folder.is_symlink() or status.st_uid not in owners or status.st_mode & 0o077:
            raise Misconfigured(
                "the socket folder belongs to somebody else or is open to others",
                place=str(folder),
                remedy="Remove this folder, or put MAILMILL_HOME at a short path without spaces.",
            )
        own(folder, user)


def _read_json(path: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return known


def unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as: ourselves (None), or, since PostgreSQL refuses root, an unprivileged user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise Misconfigured(
        "PostgreSQL does not run as root and there is neither a user postgres nor nobody",
        remedy="Run mailmill as a plain user, or add one of these users.",
    )


def own(path: Path, user: pwd.struct_passwd | None) -> None:
    """Give a folder or file to the user the server runs as; None is ourselves."""
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
