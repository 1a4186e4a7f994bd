"""What options of isolation need of the machine: devices, a reaper, security modules, time zones."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest
import rendering

from gear import host
from gear.errors import HostError, UsageError


def program(path: Path, *kinds: int, wide: bool = True) -> Path:
    """An ELF file whose program headers are of *kinds* (elf(5))."""
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    if wide:
        header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(kinds), 0, 0, 0)
        table = b"".join(struct.pack("<I52x", kind) for kind in kinds)
    else:
        header = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0, 64, 0, 0, 52, 32, len(kinds), 0, 0, 0)
        table = bytes(12) + b"".join(struct.pack("<I28x", kind) for kind in kinds)
    path.write_bytes(header + table)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("wide", [True, False])
def test_reaper_is_the_first_static_program(tmp_path: Path, wide: bool) -> None:
    dynamic = program(tmp_path / "dynamic", 1, 3, 1, wide=wide)
    static = program(tmp_path / "static", 1, 1, wide=wide)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    candidates = [str(tmp_path / "none"), str(dynamic), str(script), str(static)]
    assert host.find_reaper(candidates) == str(static)
    with pytest.raises(HostError) as caught:
        host.find_reaper(candidates[:3])
    assert caught.value.hint == "apt-get install catatonit"


def test_device_is_described_as_it_is_here() -> None:
    (found,) = host.devices("/dev/null", "/dev/zero", "r")
    status = os.stat("/dev/null")
    assert (found.source, found.destination, found.access, found.kind) == ("/dev/null", "/dev/zero", "r", "c")
    assert (found.major, found.minor, found.mode) == (1, 3, stat.S_IMODE(status.st_mode))
    assert (found.uid, found.gid) == (status.st_uid, status.st_gid)


def test_directory_stands_for_the_devices_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "zero").symlink_to("/dev/zero")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "round").symlink_to(tmp_path)
    found = host.devices(str(tmp_path), "/dev/x", "rw")
    assert [device.destination for device in found] == ["/dev/x/a/zero", "/dev/x/null"]
    for path, message in (
        (tmp_path / "file", f"{tmp_path}/file is no device."),
        (
            tmp_path / "none",
            f"There is no device {tmp_path}/none on this machine: No such file or directory.",
        ),
        (tmp_path / "empty", f"There is no device in {tmp_path}/empty."),
    ):
        with pytest.raises(UsageError) as caught:
            host.devices(str(path), "/dev/x", "rw")
        assert caught.value.message == message


def test_security_modules_have_to_be_there(tmp_path: Path) -> None:
    enabled = tmp_path / "module/apparmor/parameters/enabled"
    confined = rendering.make_spec(isolation={"apparmor": "x"})
    labelled = rendering.make_spec(isolation={"label": ["type:x"]})
    for spec in (
        rendering.make_spec(),
        rendering.make_spec(isolation={"apparmor": "unconfined", "label": ["disable"]}),
    ):
        host.require_security(spec, tmp_path)
    for spec in (confined, labelled):
        with pytest.raises(HostError):
            host.require_security(spec, tmp_path)
    enabled.parent.mkdir(parents=True)
    enabled.write_text("Y\n")
    (tmp_path / "fs/selinux").mkdir(parents=True)
    (tmp_path / "fs/selinux/enforce").write_text("1")
    host.require_security(confined, tmp_path)
    host.require_security(labelled, tmp_path)
    reaper = rendering.make_spec(isolation={"init": str(tmp_path / "none")})
    with pytest.raises(HostError) as caught:
        host.require_security(reaper, tmp_path)
    assert "is not on this machine" in caught.value.message


def test_time_zone_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "Etc").mkdir()
    (tmp_path / "Etc/UTC").write_bytes(b"TZif2")
    host.require_zone("Etc/UTC", tmp_path)
    for name in ("Etc", "Etc/None"):
        with pytest.raises(HostError):
            host.require_zone(name, tmp_path)


def test_limits_need_their_controllers() -> None:
    for member, value, option, controller in (
        ("memory_swap_max", -1, "--memory-swap-max", "memory"),
        ("cpu_weight", 2, "--cpu-weight", "cpu"),
        ("cpus", "0", "--cpuset-cpus", "cpuset"),
        ("memory_nodes", "0", "--cpuset-mems", "cpuset"),
        ("io_weight", 5, "--io-weight", "io"),
        ("io_read_bandwidth_max", {"/dev/sda": 5}, "--device-read-bps", "io"),
        ("hugepages", {"2MB": 5}, "--hugepages", "hugetlb"),
    ):
        spec = rendering.make_spec(resources={member: value})
        host.require_controllers(spec, frozenset({controller}))
        with pytest.raises(HostError) as caught:
            host.require_controllers(spec, frozenset())
        assert f"{option}: this machine has no {controller} controller." in caught.value.message
