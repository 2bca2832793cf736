"""The same installation as the flow tests': one place to build it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[2] / "flow" / "people" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("people_fixtures", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)

people = _MODULE.people
