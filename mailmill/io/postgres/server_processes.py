"""Processes of the embedded PostgreSQL: as whom and with what they start, and whether they live."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path
from typing import Any


def as_user(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def is_postgres(pid: int) -> bool:
    """Whether this process lives and is a PostgreSQL: after a crash its number may have been given to somebody else."""
    with suppress(OSError):  # where there is no /proc, being alive has to do
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes() and alive(pid)
    return alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
