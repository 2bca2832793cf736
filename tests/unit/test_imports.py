"""The arrows between the rooms, as design.md's table draws them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "mailmill"
# room -> what of ours it may import; the composition at the end may import all
ALLOWED = {
    "errors": set(),
    "pipelines": {"pipelines", "errors"},
    "io": {"io", "pipelines", "errors"},
    "assets": {"assets", "pipelines", "io", "errors"},
    "sensors": {"sensors", "assets", "pipelines", "io", "errors"},
    "api": {"api", "pipelines", "io", "errors"},
    "sandbox": {"sandbox", "errors"},  # an outside system: it must not know ours, else it could not judge it
}
COMPOSITION = {"settings", "composition", "references", "cli", "definitions", "__main__", "__init__"}
PURE = {
    "polars",
    "jinja2",
    "markupsafe",
    "cryptography",
    "nacl",
    "css_inline",
    "idna",
    "phonenumbers",
    "pydantic",
    "pydantic_core",
    "orjson",
}
READS_ENVIRONMENT = {"settings", "references", "cli", "definitions", "__main__"}
FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_the_design_allows(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "mailmill" and here not in COMPOSITION:
            assert rest.split(".")[0] in ALLOWED[here], f"{here} must not import {name}"
        if first == "dagster" or first.startswith("dagster_"):
            assert here in {"assets", "sensors", "definitions", "cli"}, f"{here} must not import {name}"
        if here == "pipelines" and first != "mailmill" and first not in sys.stdlib_module_names:
            assert first in PURE, f"pipelines must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_composition_reads_the_environment(path: Path) -> None:
    if room(path) in READS_ENVIRONMENT:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in {"environ", "getenv"}, f"{path}:{node.lineno} reads the environment"
