"""The same world as the contract tests': one place to build it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[2] / "contract" / "target" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("target_world", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)

world, project, frame = _MODULE.world, _MODULE.project, _MODULE.frame
