"""Every setting stands in the README, with its default and what it is."""

from __future__ import annotations

import re
from pathlib import Path

from mailmill.composition import Installation
from mailmill.settings import Settings

README = Path(__file__).parents[2] / "README.md"


def rows() -> list[str]:
    """The table as it has to be."""
    made = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        made.append(f"| `MAILMILL_{name.upper()}` | {default} | {field.description} |")
    return made


def test_the_readme_lists_every_setting_and_no_other() -> None:
    found = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README.read_text(), re.DOTALL)
    assert found, "README.md has no table between <!-- settings --> and <!-- /settings -->"
    assert found[1].splitlines()[2:] == rows()


def test_data_lies_in_the_project_folder_wherever_a_verb_is_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(project=tmp_path / "shop").home_path == tmp_path / "shop" / ".mailmill"
    assert Settings(project=Path("shop"), home=Path("data")).home_path == tmp_path / "data"


def test_a_secret_setting_is_in_no_repr() -> None:
    settings = Settings(database_url="postgresql://u:hunter2@h/d")  # type: ignore[arg-type]
    assert "hunter2" not in repr(settings) and "hunter2" not in str(settings.model_dump())


def test_servers_on_an_address_of_ipv6_are_reached_by_a_url() -> None:
    assert Installation(Settings(bind="::1")).public_url == "http://[::1]:8025"
    assert Installation(Settings(bind="::")).public_url == "http://127.0.0.1:8025"
