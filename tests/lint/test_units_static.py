"""systemd's own judgement of units: the static ones, and those of every case of tests/cases.

Needs systemd-analyze and neither root nor a running systemd.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import rendering
from project import TOP, tool

from gear import units
from gear.model import Layout

UNITS = {path.name: path.read_bytes() for path in sorted((TOP / "units").iterdir())}


def verify(directory: Path, units: Mapping[str, bytes]) -> str:
    """What systemd-analyze says about *units*; nothing when they are right."""
    directory.mkdir(exist_ok=True)
    for name, content in (UNITS | dict(units)).items():
        (directory / name).write_bytes(content)
    # A trailing colon adds the usual search path, where slices.target and the like are.
    environ = {
        "SYSTEMD_UNIT_PATH": f"{directory}:",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    command = [tool("systemd-analyze", "apt-get install systemd"), "verify", *units]
    done = subprocess.run(
        command,
        cwd=directory,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    return said if said or done.returncode == 0 else f"status {done.returncode}"


def test_static_units(tmp_path: Path) -> None:
    assert verify(tmp_path, UNITS) == ""


def test_static_units_say_what_they_are() -> None:
    for name, content in UNITS.items():
        assert content.startswith(b"# "), name
        assert b"\nDescription=" in content, name


@pytest.mark.parametrize("path", rendering.cases(), ids=lambda path: path.stem)
def test_rendered_service(path: Path, tmp_path: Path) -> None:
    case = rendering.read(path)
    if "error" not in case.document:
        sockets = units.render_sockets(case.spec, case.layout)
        assert verify(tmp_path, {"ctr-web.service": case.unit(), **sockets}) == ""


@pytest.mark.parametrize("state", ["/var/lib/gear", "/srv/a b/%h/$x/é"])
def test_service_of_a_network(state: str, tmp_path: Path) -> None:
    text = units.render_network("a-b.c", Layout().moved("state", Path(state)))
    assert verify(tmp_path, {"gear-network@a-b.c.service": text}) == ""


def test_service_of_odd_directories(tmp_path: Path) -> None:
    case = rendering.read(rendering.CASES / "everything.json")
    layout = Layout().moved("state", Path('/srv/a b/%h/$x/"q"/\\/é'))
    text = rendering.Case(case.name, case.document, case.spec, case.image, case.identity, layout).unit()
    assert verify(tmp_path, {"ctr-web.service": text}) == ""


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        (b"Restart=on-failure", b"Restart=sometimes", "Failed to parse service restart specifier"),
        (b"KillMode=mixed", b"KilMode=mixed", "Unknown key name 'KilMode'|Unknown key 'KilMode'"),
        (b"ExecStart=/usr/bin/python3", b"ExecStart=/nowhere/python3", "/nowhere/python3 is not executable"),
        (b"TimeoutStopSec=10s", b"TimeoutStopSec=soon", "Failed to parse"),
        (b"Slice=container.slice", b"Slice=container", "container"),
        (b"RequiresMountsFor=", b"RequiresMountsFor=relative ", "not absolute"),
        (b"[Service]", b"[Servant]", "Unknown section|Service has no ExecStart"),
        (b"KillSignal=15", b"KillSignal=SIGNONE", "Failed to parse"),
    ],
)
def test_systemd_finds_what_is_broken(good: bytes, bad: bytes, complaint: str, tmp_path: Path) -> None:
    text = rendering.read(rendering.CASES / "defaults.json").unit()
    assert good in text
    said = verify(tmp_path, {"ctr-web.service": text.replace(good, bad)})
    assert any(part in said for part in complaint.split("|")), said


def test_systemd_finds_a_broken_static_unit(tmp_path: Path) -> None:
    broken = UNITS["container.slice"].replace(b"[Slice]\n", b"[Slice]\nMemoryMax=plenty\n")
    assert "Invalid memory limit 'plenty'" in verify(tmp_path, {"container.slice": broken})
