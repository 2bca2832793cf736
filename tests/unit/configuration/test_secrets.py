"""References to secrets: what they give, and what is said when they give nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.settings import Settings, read_settings


@pytest.fixture
def mill(tmp_path: Path) -> Installation:
    return Installation(Settings(project=tmp_path))


def test_env_gives_the_variable(mill: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "hunter2")
    assert mill.secret("env:SMTP_PASSWORD") == "hunter2"


def test_file_gives_the_file_without_its_last_line_break(mill: Installation, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2 \n")
    assert mill.secret("file:secret") == "hunter2 "
    assert mill.secret(f"file:{tmp_path}/secret") == "hunter2 "


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("env:NOT_SET_AT_ALL", "env:NOT_SET_AT_ALL: the environment variable NOT_SET_AT_ALL is not set or empty"),
        ("file:none", "file:none: cannot be read: No such file or directory"),
        ("file:empty", "file:empty: is empty"),
        ("file:../other", "file:../other: a relative path stays in the project folder"),
        ("file:binary", "file:binary: is not text in UTF-8"),
        ("file:large", "file:large: larger than a secret may be (64 KiB)"),
        ("file:.", "file:.: cannot be read: Is a directory"),
    ],
)
def test_what_is_wrong_names_the_reference(mill: Installation, tmp_path: Path, reference: str, expected: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    with pytest.raises(Misconfigured) as raised:
        mill.secret(reference)
    assert str(raised.value).startswith(expected)


def test_a_value_in_the_place_of_a_reference_is_not_repeated(mill: Installation) -> None:
    with pytest.raises(Misconfigured) as raised:
        mill.secret("hunter2")
    assert "hunter2" not in str(raised.value)


def test_a_setting_may_be_a_file_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mailmill_database_url").write_text("postgresql://u:pw@db/x\n")
    monkeypatch.setenv("MAILMILL_SECRETS_DIR", str(tmp_path))
    settings = read_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://u:pw@db/x"
    assert "pw" not in repr(settings)


def test_the_environment_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mailmill_bind").write_text("0.0.0.0")
    monkeypatch.setenv("MAILMILL_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("MAILMILL_BIND", "127.0.0.2")
    assert read_settings().bind == "127.0.0.2"


def test_a_wrong_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILMILL_STATS_PORT", "eighty")
    with pytest.raises(Misconfigured, match=r"^MAILMILL_STATS_PORT: "):
        read_settings()
