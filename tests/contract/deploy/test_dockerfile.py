"""The Dockerfile's steps, run as a shell here: folders of the image lie below a temporary one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, argument) without comments, continued lines joined."""
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    found = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, rest in found]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What building the image leaves: /opt of it."""
    opt = tmp_path_factory.mktemp("image") / "opt"

    def here(text: str) -> str:
        return text.replace("/opt/", f"{opt}/")

    # packages may come from uv's cache; only root may give folders to another user
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment["UV_LINK_MODE"] = "copy" if os.environ.get("UV_LINK_MODE") == "copy" else "hardlink"
    environment["PATH"] = f"{Path(sys.base_prefix) / 'bin'}:{os.defpath}"
    folder = opt
    for name, argument in instructions((ROOT / "Dockerfile").read_text()):
        if name == "WORKDIR":
            folder = Path(here(argument))
            folder.mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            *sources, target = argument.split()
            for source in sources:
                to = Path(here(target)) if target.startswith("/opt/") else folder / target
                copy(ROOT / source, to / Path(source).name if target.endswith("./") else to)
        elif name == "RUN":
            step = here(argument) if os.geteuid() == 0 else here(argument).replace("-o 10001 -g 10001 ", "")
            done = subprocess.run(["/bin/sh", "-ec", step], cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{step}\n{done.stderr[-2000:]}"
    return opt


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


@pytest.mark.system
def test_the_image_runs_mailmill_from_its_own_packages(image: Path) -> None:
    script = "import mailmill, importlib.metadata as m; print(mailmill.__file__, m.version('mailmill'))"
    done = subprocess.run([str(image / "venv/bin/python"), "-c", script], capture_output=True, text=True, cwd="/")
    assert done.stdout.split() == [
        str(image / "venv/lib" / python_folder() / "site-packages/mailmill/__init__.py"),
        "0.1.0",
    ]
    helped = subprocess.run(
        [str(image / "venv/bin/mailmill"), "--help"], capture_output=True, text=True, cwd="/", timeout=300
    )
    assert helped.returncode == 0 and "apply" in helped.stdout, helped.stderr


@pytest.mark.system
def test_the_package_carries_what_is_no_python(image: Path) -> None:
    package = image / "venv/lib" / python_folder() / "site-packages/mailmill"
    names = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    wanted = {path.relative_to(ROOT / "mailmill") for path in (ROOT / "mailmill").rglob("*")
              if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    assert wanted - names == set()
    assert Path("cli/example_project/inbox/contacts.csv") in names


@pytest.mark.system
def test_the_image_has_dagsters_files_and_folders_for_the_volumes(image: Path) -> None:
    assert {path.name for path in (image / "dagster").iterdir()} == {"dagster.yaml", "workspace.yaml", "dagster.sh"}
    assert os.access(image / "dagster" / "dagster.sh", os.X_OK)
    for name in ("data", "journal", "project"):
        assert (image / name).is_dir()
        assert os.geteuid() != 0 or (image / name).stat().st_uid == 10001


def test_every_copied_file_is_let_through_by_dockerignore() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for name, argument in instructions((ROOT / "Dockerfile").read_text()) if name == "COPY"
              for source in argument.split()[:-1]}  # fmt: skip
    assert copied == allowed


def test_uv_is_the_one_of_the_makefile() -> None:
    [wanted] = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"uv=={wanted}" in (ROOT / "Dockerfile").read_text()


def python_folder() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"
