"""The statements of mailmill, one file a concern, each in a block `-- name: <name>`."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def statements(concern: str) -> dict[str, LiteralString]:
    """The statements of `sql/<concern>.sql` by name.

    They are cast to LiteralString because they come from files of this package, never from input;
    so a type checker still refuses SQL that was put together by hand.
    """
    text = resources.files(__name__).joinpath(f"{concern}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: cast("LiteralString", body.strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)}
