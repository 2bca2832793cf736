"""Secrets as the YAML files name them: references to a variable of the environment or to a file, never values."""

from __future__ import annotations

import os
from pathlib import Path

from mailmill.errors import Misconfigured

MAX_BYTES = 64 * 2**10


def value(reference: str, *, project: Path) -> str:
    """The value behind `env:NAME`, or `file:path` (relative: in the project folder).

    Raises: Misconfigured naming the reference, never the value.
    """
    scheme, _, name = reference.partition(":")
    if scheme == "env" and name:
        found = os.environ.get(name, "")
        if not found:
            raise Misconfigured(
                f"the environment variable {name} is not set or empty",
                place=reference,
                remedy=f"Export {name} where mailmill runs.",
            )
        return found
    if scheme == "file" and name:
        return _of_file(reference, Path(name).expanduser(), project)
    # what was written instead may be the secret itself, so it is not repeated
    raise Misconfigured("a secret is a reference, env:NAME or file:path", remedy="Correct the YAML and apply it.")


def _of_file(reference: str, path: Path, project: Path) -> str:
    if not path.is_absolute():
        path = project / path
        if not path.resolve().is_relative_to(project.resolve()):
            raise Misconfigured(
                "a relative path stays in the project folder",
                place=reference,
                remedy="Name a file below it, or write the absolute path.",
            )
    remedy = f"Put the secret into {path}, readable by the user mailmill runs as."
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Misconfigured("larger than a secret may be (64 KiB)", place=reference)
        found = path.read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise Misconfigured(f"cannot be read: {error.strerror}", place=reference, remedy=remedy) from None
    except UnicodeDecodeError:
        raise Misconfigured("is not text in UTF-8", place=reference) from None
    if not found:
        raise Misconfigured("is empty", place=reference, remedy=remedy)
    return found
