"""Who was forgotten, beside the database: hashes only, one JSON object a line, so that a restore can do it again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import orjson

from mailmill.errors import StoreUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One forget. `tenant` is a slug; None: every tenant."""

    tenant: str | None
    hashes: tuple[str, ...]  # '<key id>:<hash>'


@dataclass(frozen=True, slots=True)
class ForgottenLog:
    """The file `forgotten.jsonl` of the data folder. It is no secret without the signing keys."""

    path: Path

    def append(self, tenant: str | None, hashes: Sequence[str], at: datetime) -> None:
        """On the disk when this returns; what stands there already is not written again.

        Raises: StoreUnavailable, and then nobody is forgotten.
        """
        known = {text for entry in self.entries() if entry.tenant == tenant for text in entry.hashes}
        new = [text for text in hashes if text not in known]
        if not new:
            return
        line = orjson.dumps({"at": at.isoformat(), "tenant": tenant, "hashes": new}) + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line if self._whole() else b"\n" + line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be written: {error.strerror}") from error

    def _whole(self) -> bool:
        """Whether the last line has its end: a kill may have torn it."""
        content = self.path.read_bytes() if self.path.exists() else b""
        return not content or content.endswith(b"\n")

    def entries(self) -> list[Entry]:
        """Every forget, oldest first; torn lines are left out."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_bytes().splitlines():
            try:
                fields = orjson.loads(line)
                found.append(Entry(tenant=fields["tenant"], hashes=tuple(fields["hashes"])))
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
        return found
