"""Secrets, configs and environment sets: what is asked for, what it renders to, and how it is kept."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rendering
from hypothesis import given
from hypothesis import strategies as st

from gear import bundle, download, envsets, files, objects, supplies, units, variables
from gear.errors import IntegrityError, NotFoundError, UsageError
from gear.model import Layout
from gear.oci import Identity
from gear.provision import Content
from gear.spec import Spec
from gear.supplies import CONFIG, ENV_SET, SECRET, Config, Secret, Supplies

LAYOUT = Layout()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("db", Secret("db", "mount", "db")),
        ("source=db,target=pw", Secret("db", "mount", "pw")),
        ("target=pw,source=db", Secret("db", "mount", "pw")),
        ("db,target=/run/secrets/pw", Secret("db", "mount", "pw")),
        ("db,target=/etc//tls/./key", Secret("db", "mount", "/etc/tls/key")),
        ("db,uid=0,gid=7,mode=440", Secret("db", "mount", "db", 0, 7, "0440")),
        ("db,type=env,target=PASSWORD", Secret("db", "env", "PASSWORD")),
        ("db,type=env", Secret("db", "env", "db")),
    ],
)
def test_secrets_as_docker_and_podman_write_them(text: str, secret: Secret) -> None:
    assert supplies.parse_secret(text) == secret


@pytest.mark.parametrize(
    "text",
    [
        "", ",target=x", "../x", "a/b", "db,target=../x", "db,target=a/b", "db,target=.", "db,target=/proc/1/mem",
        "db,target=/", "db,target=/run/secrets", "db,target=/run/secrets/a/b", "db,target=/dev/x", "db,mode=4755",
        "db,mode=9", "db,uid=-1", "db,uid=4294967295", "db,type=disk", "db,what=x", "db,uid=1,uid=2",
        "db,type=env,target=A=B", "db,type=env,target=A-B", "db,type=env,mode=0444", "d b", "db,target=/a\nb",
    ],
)  # fmt: skip
def test_secrets_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError):
        supplies.parse_secret(text)


def test_configs() -> None:
    assert supplies.parse_config("app:/etc/app.conf") == Config("app", "/etc/app.conf")
    assert supplies.parse_config("app,target=/etc/app.conf,uid=5,mode=600") == Config(
        "app", "/etc/app.conf", 5, 0, "0600"
    )
    for text in (
        "app",
        "app:/a,target=/b",
        "app:relative",
        "app:/",
        "app:/sys/x",
        "app:/run/secrets/x",
        ":/x",
    ):
        with pytest.raises(UsageError):
            supplies.parse_config(text)


@pytest.mark.parametrize(
    "asked",
    [
        Supplies(env_sets=("a", "a")),
        Supplies(secrets=(Secret("a", target="x"), Secret("b", target="x"))),
        Supplies(secrets=(Secret("a", target="a"), Secret("a", target="/etc/a"))),
        Supplies(secrets=(Secret("a", "env", "X"), Secret("b", "env", "X"))),
        Supplies(secrets=(Secret("a", target="/etc/x"),), configs=(Config("c", "/etc/x"),)),
        Supplies(configs=(Config("c", "/etc/x"), Config("d", "/etc/x/y"))),
        Supplies(configs=(Config("c", "/etc/x"), Config("c", "/etc/y"))),
    ],
)
def test_nothing_is_in_two_places_at_once(asked: Supplies) -> None:
    with pytest.raises(UsageError):
        supplies.checked(asked)


def test_a_reload_never_kills() -> None:
    assert supplies.reload_signal("HUP") == "HUP"
    for text in ("KILL", "sigkill", "9", "STOP", "SIGSTOP", "19"):
        with pytest.raises(UsageError):
            supplies.reload_signal(text)


ALL = Supplies(
    ("common", "web"),
    (Secret("db", target="db"), Secret("tls", target="/etc/tls.key", uid=5, gid=6, mode="0440"),
     Secret("pw", "env", "PASSWORD")),
    (Config("app", "/etc/app.conf", 3, 4),),
    "HUP",
)  # fmt: skip


def with_supplies(asked: Supplies, **changes: Any) -> Spec:
    return dataclasses.replace(rendering.make_spec(**changes), supplies=asked)


def test_the_member_of_the_specification() -> None:
    wanted = with_supplies(ALL)
    assert Spec.from_mapping(json.loads(files.dump_json(wanted.to_mapping())), "spec.json") == wanted
    # What uses none of it is written as it ever was, so an upgrade changes nothing.
    assert "supplies" not in with_supplies(Supplies()).to_mapping()
    for damage in (
        {"secrets": [{"name": "x"}]},
        {"secrets": [{**vars(ALL.secrets[0]), "target": "../x"}]},
        {"secrets": [{**vars(ALL.secrets[0]), "uid": True}]},
        {"configs": [{**vars(ALL.configs[0]), "more": 1}]},
        {"env_sets": ["../x"]},
        {"env_sets": "x"},
        {"reload_signal": "KILL"},
        {"other": 1},
    ):
        with pytest.raises(IntegrityError, match="/supplies"):
            Spec.from_mapping(wanted.to_mapping() | {"supplies": damage}, "spec.json")


CONTENT = Content({"A": "set", "B": "line\nquote'\"$%\udcff"}, {"app": b"data\0"})


def rendered(spec: Spec) -> dict[str, bytes]:
    found = bundle.render(
        spec, rendering.make_image(), Identity(7, 8, (), "/"), [], LAYOUT, content=CONTENT,
        networks=rendering.NETWORKS if hasattr(rendering, "NETWORKS") else None,
    )  # fmt: skip
    return {path.name: data for path, data in found.items()}


def test_what_is_rendered() -> None:
    spec = with_supplies(ALL, env={"A": "own"})
    found = rendered(spec)
    config, start = json.loads(found["config.json"]), json.loads(found["start.json"])
    env = dict(entry.partition("=")[::2] for entry in config["process"]["env"])
    assert (env["A"], env["B"]) == ("own", CONTENT.variables["B"])
    assert env["CREDENTIALS_DIRECTORY"] == "/run/secrets" and "PASSWORD" not in env
    mount = next(entry for entry in config["mounts"] if entry["destination"] == "/etc/app.conf")
    assert mount["source"] == "/var/lib/gear/containers/web/config-app"
    assert {"bind", "ro", "idmap", "nosuid", "nodev"} <= set(mount["options"])
    assert found["config-app"] == b"data\0"
    assert start["secrets"] == {
        "files": [
            {"name": "db", "target": "db", "uid": 7, "gid": 8, "mode": 0o400},
            {"name": "tls", "target": "/etc/tls.key", "uid": 5, "gid": 6, "mode": 0o440},
        ],
        "variables": {"PASSWORD": "pw"},
    }
    assert start["configs"][0] | {"path": ""} == {"path": "", "uid": 3, "gid": 4, "mode": 0o444}
    text = units.render(spec, rendering.make_image(), LAYOUT).decode()
    for name in ("db", "tls", "pw"):
        assert text.count(f"LoadCredentialEncrypted={name}:/var/lib/gear/secrets/{name}/credential\n") == 1
    assert "\nExecReload=/bin/sh /var/lib/gear/helper/current/reload 1 /var/lib/gear/containers/web\n" in text


def test_who_asks_for_nothing_gets_nothing() -> None:
    plain = with_supplies(Supplies())
    assert "Credential" not in units.render(plain, rendering.make_image(), LAYOUT).decode()
    start = json.loads(rendered(plain)["start.json"])
    assert "secrets" not in start and "configs" not in start


def test_what_can_not_be_rendered() -> None:
    too_large = dataclasses.replace(ALL.secrets[0], uid=70000)
    with pytest.raises(UsageError, match="no id 70000"):
        rendered(with_supplies(Supplies(secrets=(too_large,))))
    mount = {"kind": "tmpfs", "source": "", "destination": "/run/secrets/x", "options": []}
    with pytest.raises(UsageError, match="/run/secrets"):
        rendered(with_supplies(ALL, mounts=[mount]))


# ---- on disk


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(state=tmp_path)


TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), max_size=20)
BYTES = st.binary(max_size=20).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))


@given(st.dictionaries(st.from_regex(r"[A-Za-z_.-]{1,9}", fullmatch=True), TEXT | BYTES, max_size=4))
def test_any_value_survives(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    layout = Layout(state=tmp_path_factory.mktemp("state"))
    envsets.write(layout, "all", values)
    assert envsets.read(layout, "all") == values
    pieces = envsets.as_bytes(values).split(b"\0")[:-1]
    assert dict(os.fsdecode(piece).partition("=")[::2] for piece in pieces) == values
    shown = envsets.as_shell(values)
    assert shown.count(b"\n") == len(values) and b"\x1b" not in shown


@pytest.mark.spawns
def test_a_shell_reads_back_what_is_shown() -> None:
    value = os.fsdecode(b"a'b\"$x\\ \n\t\x1b[0m7\xff%")
    script = envsets.as_shell({"V": value}) + b'printf %s "$V"'
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, env={"LC_ALL": "C"})
    assert os.fsdecode(done.stdout) == value


def test_sets_are_strict(layout: Layout) -> None:
    with pytest.raises(NotFoundError, match="environment set none"):
        envsets.read(layout, "none")
    for values in ({"A": "x\0y"}, {"A": "x" * (1 << 17)}, {"": "x"}, {"A=B": "x"}):
        with pytest.raises(UsageError):
            envsets.write(layout, "bad", values)
    envsets.write(layout, "bad", {"A": "1"})
    for damage in (
        b"{}",
        b"[]",
        b"{",
        b'{"version": 1, "variables": {"A": 1}}',
        b'{"version": 2, "variables": {}}',
    ):
        (layout.state / "env/bad/env.json").write_bytes(damage)
        with pytest.raises(IntegrityError):
            envsets.read(layout, "bad")


def test_objects_are_whole_and_private(layout: Layout) -> None:
    objects.write(layout, SECRET, "s", {"secret.json": b"{}", "credential": b"x"})
    objects.write(layout, CONFIG, "c", {"data": b"1"})
    objects.write(layout, CONFIG, "c", {"data": b"2"})
    assert objects.read(layout, CONFIG, "c") == b"2" and objects.names(layout, CONFIG) == ["c"]
    for path in ("secrets", "secrets/s", "configs", "configs/c"):
        assert (layout.state / path).stat().st_mode & 0o777 == 0o700
    assert (layout.state / "secrets/s/credential").stat().st_mode & 0o777 == 0o600
    (layout.state / "configs/half").mkdir()
    assert not objects.exists(layout, CONFIG, "half")
    objects.write(layout, CONFIG, "half", {"data": b"whole"})
    objects.remove(layout, CONFIG, "c")
    assert objects.names(layout, CONFIG) == ["half"]
    with pytest.raises(NotFoundError):
        objects.remove(layout, CONFIG, "c")
    with pytest.raises(UsageError, match="larger"):
        objects.require_size(bytes(objects.LIMIT + 1), "It")


def test_a_config_is_changed_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config-x"
    path.write_bytes(b"a longer text")
    before = path.stat().st_ino
    files.overwrite(path, b"short")
    assert path.read_bytes() == b"short" and path.stat().st_ino == before
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(Exception, match="link"):
        files.overwrite(tmp_path / "link", b"x")


def test_files_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "own")
    assert variables.parse(b"\xef\xbb\xbfA=1\n# no\n\nB= x=y \r\nHERE\nC=\xff", "it") == {
        "A": "1", "B": " x=y ", "HERE": "own", "C": "\udcff",
    }  # fmt: skip
    # Who serves a file must not get to know what this process has.
    with pytest.raises(UsageError, match="Line 1 of it"):
        variables.parse(b"HERE\n", "it", inherit=False)


@pytest.mark.parametrize(
    "url",
    ["ftp://x/y", "file:///etc/shadow", "https://user@example.org/pw", "http://example.org/x?token=t", "x"],
)
def test_urls_that_are_not_asked(layout: Layout, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        download.document(layout, url, 1000)
    assert "pw" not in caught.value.message and "token" not in caught.value.message


def test_kinds_have_their_places() -> None:
    assert str(supplies.object_path(LAYOUT, ENV_SET, "x")) == "/var/lib/gear/env/x/env.json"


# ---- the script behind ExecReload=

PROGRAM = """
import signal, sys
{setup}
print("ready", flush=True)
for line in sys.stdin:
    print("alive", flush=True)
"""


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("setup", "number", "told"),
    [
        ("signal.signal(signal.SIGHUP, lambda *_: print('again', flush=True))", signal.SIGHUP, True),
        (
            "signal.signal(signal.SIGRTMIN + 1, lambda *_: print('again', flush=True))",
            signal.SIGRTMIN + 1,
            True,
        ),
        ("", signal.SIGHUP, False),
        ("", signal.SIGRTMIN + 1, False),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", signal.SIGHUP, False),
    ],
)
def test_only_who_hears_is_told(tmp_path: Path, setup: str, number: int, told: bool) -> None:
    program = [sys.executable, "-c", PROGRAM.format(setup=setup)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as payload:
        assert payload.stdin and payload.stdout and payload.stdout.readline() == "ready\n"
        script = ["/bin/sh", str(rendering.TOP / "gear/helper/reload"), str(int(number)), str(tmp_path)]
        done = subprocess.run(
            script, env={"MAINPID": str(payload.pid)}, capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) == told, done.stderr
        assert (tmp_path / "reloaded").exists() == told
        assert told or "no handler for signal" in done.stderr
        if told:
            assert payload.stdout.readline() == "again\n"
        payload.stdin.write("\n")
        payload.stdin.flush()
        assert payload.stdout.readline() == "alive\n"
        payload.stdin.close()


@pytest.mark.spawns
def test_nobody_is_told_who_has_ended(tmp_path: Path) -> None:
    script = ["/bin/sh", str(rendering.TOP / "gear/helper/reload"), "1", str(tmp_path)]
    assert subprocess.run(script, env={}, capture_output=True, check=False).returncode == 1
