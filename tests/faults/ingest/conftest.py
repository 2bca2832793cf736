"""The same world as the flow tests': one place to build it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parents[2] / "flow" / "ingest" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("ingest_world", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules["ingest_world"] = _MODULE  # its dataclasses look themselves up
_SPEC.loader.exec_module(_MODULE)

module_database, database, mill = _MODULE.module_database, _MODULE.database, _MODULE.mill
