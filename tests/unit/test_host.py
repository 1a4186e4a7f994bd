"""What the machine must have, told before anything is changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import rendering

from gear import host
from gear.errors import HostError


@pytest.fixture
def enabled(tmp_path: Path) -> Path:
    path = tmp_path / "max_user_namespaces"
    path.write_text("12345\n")
    return path


def test_only_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError) as caught:
        host.require_root("start containers")
    assert (caught.value.message, caught.value.hint) == (
        "Only root can start containers.",
        "Run the same command with sudo.",
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    host.require_root("start containers")


@pytest.mark.parametrize("release", ["5.19.0", "5.19-rc1", "6.1.0-18-amd64", "10.0", "unknown"])
def test_kernels_that_are_new_enough(release: str, enabled: Path) -> None:
    host.require_isolation(release, enabled)


@pytest.mark.parametrize("release", ["5.18.19", "5.10.0-28-amd64", "4.19", "3.99.1", "5.4"])
def test_kernels_that_are_too_old(release: str, enabled: Path) -> None:
    with pytest.raises(HostError) as caught:
        host.require_isolation(release, enabled)
    assert caught.value.message == (
        f"The kernel {release} is too old for containers with user ids of their own: idmapped layers need 5.19."
    )
    assert caught.value.hint == "Debian 12 and later have one that is new enough."


@pytest.mark.parametrize("content", ["0\n", "-1", "", "x", None])
def test_user_namespaces_that_are_off(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "max_user_namespaces"
    if content is not None:
        path.write_text(content)
    with pytest.raises(HostError) as caught:
        host.require_isolation("6.1.0", path)
    assert caught.value.message == (
        "User namespaces are switched off on this machine (user.max_user_namespaces is 0 or missing)."
    )
    assert caught.value.hint == "sysctl -w user.max_user_namespaces=65536"


def test_missing_interpreter(enabled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gear.units.PYTHON", "/nowhere/python3")
    with pytest.raises(HostError) as caught:
        host.require_isolation("6.1.0", enabled)
    assert caught.value.message == "The start helper needs /nowhere/python3, which is not there."


def test_controllers_of_the_unified_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert host.controllers(tmp_path) == {"cpuset", "cpu", "io", "memory", "pids"}
    (tmp_path / "cgroup.controllers").write_text("\n")
    assert host.controllers(tmp_path) == frozenset()


def test_controllers_of_version_1(tmp_path: Path) -> None:
    for name in ("memory", "blkio", "freezer", "systemd"):
        (tmp_path / name).mkdir()
    assert host.controllers(tmp_path) == {"memory", "io"}
    assert host.controllers(tmp_path / "nowhere") == frozenset()


@pytest.mark.parametrize(
    ("member", "value", "option", "controller"),
    [
        ("memory", 1 << 20, "--memory", "memory"),
        ("cpus", 0.5, "--cpus", "cpu"),
        ("pids_limit", 10, "--pids-limit", "pids"),
    ],
)
def test_limit_that_nothing_would_enforce(member: str, value: float, option: str, controller: str) -> None:
    spec = rendering.make_spec(**{member: value})
    with pytest.raises(HostError) as caught:
        host.require_controllers(spec, frozenset(("memory", "cpu", "pids")) - {controller})
    assert caught.value.message == (
        f"web can't be limited by {option}: this machine has no {controller} controller."
    )
    assert caught.value.hint is not None and "cgroup v2" in caught.value.hint
    host.require_controllers(spec, frozenset((controller,)))


def test_no_limit_needs_no_controller() -> None:
    host.require_controllers(rendering.make_spec(), frozenset())
