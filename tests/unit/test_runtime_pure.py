"""The parts of the OCI command line that touch nothing: options, ids, validation, limits, device programs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gear.helper.failure import Failure
from gear.runtime import (
    arguments,
    cli,
    devices,
    document,
    groupfiles,
    placement,
    show,
    state,
    updates,
    validate,
)

BUNDLE: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "root": {"path": "rootfs"},
    "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "network"}]},
}


def bundle(**changes: Any) -> dict[str, Any]:
    """A bundle that is right but for *changes*; `a__b` is the member b of a."""
    config = copy.deepcopy(BUNDLE)
    for path, value in changes.items():
        *holders, member = path.split("__")
        place = config
        for holder in holders:
            place = place.setdefault(holder, {})
        place[member] = value
    return config


def parse(line: str, rest: int = -1) -> arguments.Parsed:
    return arguments.parse(line.split(), cli.options_of("exec"), words_before_rest=rest)


@pytest.mark.parametrize(
    "line",
    [
        "--pid-file f --detach --env a --env b box",
        "--pid-file=f -d -e a -eb box",
        "-dt -pid-file f -e a -e=b box",
    ],
)
def test_options_are_taken_as_clients_write_them(line: str) -> None:
    parsed = parse(line)
    assert (parsed.get("pid-file"), parsed.flag("detach"), parsed.lists["env"]) == ("f", True, ["a", "b"])
    assert parsed.words == ["box"]


def test_command_of_exec_keeps_its_options() -> None:
    assert parse("-t box sh -c --tty", 1).words == ["box", "sh", "-c", "--tty"]
    assert parse("box -- -x").words == ["box", "-x"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--nothing", "there is no option --nothing"),
        ("-Z", "there is no option -Z"),
        ("--cwd", "--cwd needs a value"),
        ("--tty=2", "--tty takes no value"),
    ],
)
def test_wrong_options_are_told(line: str, sentence: str) -> None:
    with pytest.raises(Failure, match=sentence):
        parse(line)


def test_flag_can_be_turned_off() -> None:
    assert not parse("--tty=false box").flag("tty")


@pytest.mark.parametrize("name", ["a", "A.b_c+d-e", "0", "_x", "+x", "-x", "x" * 255])
def test_ids(name: str) -> None:
    assert state.check_id(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "a b", "ä", "a\n", "x" * 256, "a\0"])
def test_what_can_be_no_id(name: str) -> None:
    with pytest.raises(Failure):
        state.check_id(name)


def test_json_is_what_json_would_write() -> None:
    value = {"a": [1, None, True, "é\n"], "b": {"c": 1.5}}
    assert json.loads(document.dumps(value)) == value
    assert document.dumps(value).isascii()


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "rootfs").mkdir()
    return str(tmp_path)


def test_right_bundle(place: str) -> None:
    assert validate.check(bundle(), place) == f"{place}/rootfs"
    assert validate.check(bundle(unknown=1, linux__unknown=2), place)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"ociVersion": ""}, "has no ociVersion"),
    ({"ociVersion": "1.0"}, "is not a version of three numbers"),
    ({"ociVersion": "2.0.0"}, "is not supported"),
    ({"root": {"path": "nothing"}}, "is not a directory"),
    ({"root": None}, "has no root.path"),
    ({"process__args": []}, "one at least"),
    ({"process__args": [1]}, "must be a string"),
    ({"process__cwd": "tmp"}, "must be an absolute path"),
    ({"process__env": ["a\0b"]}, "NUL"),
    ({"process__rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}, "can't be X"),
    ({"process__rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2}, "is given twice"),
    ({"process__oomScoreAdj": 1001}, "from -1000 to 1000"),
    ({"process__scheduler": {"policy": "SCHED_X"}}, "policy can't be SCHED_X"),
    ({"process__ioPriority": {"class": "X"}}, "class can't be X"),
    ({"linux__namespaces": [{"type": "pid"}] * 2}, "given twice"),
    ({"linux__namespaces": [{"type": "what"}]}, "can't be what"),
    ({"linux__namespaces": [{"type": "pid", "path": "x"}]}, "must be absolute"),
    ({"linux__sysctl": {"kernel.panic": "1"}}, "belongs to the whole machine"),
    ({"linux__sysctl": {"kernel.msgmax": "1"}}, "needs a ipc namespace"),
    ({"linux__sysctl": {"kernel.hostname": "x"}}, "what hostname"),
    ({"linux__rootfsPropagation": "public"}, "can't be public"),
    ({"linux__intelRdt": {"closID": "x"}}, "intelRdt is not supported"),
    ({"linux__personality": {"domain": "BSD"}}, "domain can't be BSD"),
    ({"linux__devices": [{"path": "/dev/x", "type": "z"}]}, "type of a device"),
    ({"linux__devices": [{"path": "dev/x", "type": "p"}]}, "needs an absolute path"),
    ({"linux__devices": [{"path": "/dev/x", "type": "c"}]}, "needs a major"),
    ({"linux__timeOffsets": {"monotonic": {"secs": 1}}}, "need a time namespace"),
    ({"linux__uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}, "need a user namespace"),
    ({"linux__cgroupsPath": "/../a"}, "leads out"),
    ({"hooks": {"poststop": [{"path": "x"}]}}, "needs an absolute path"),
    ({"hooks": {"prestart": [{"path": "/x", "timeout": 0}]}}, "more than zero"),
    ({"linux__sysctl": {"net/../kernel/core_pattern": "x"}}, "leads elsewhere"),
    ({"linux__memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-x"}}, "such as 0-3,7"),
    ({"process__execCPUAffinity": {"final": "99999"}}, "such as 0-3,7"),
    ({"linux__resources": {"memory": {"limit": "1g"}}}, "linux.resources.memory.limit .* whole number"),
    ({"process__user": {"uid": -1, "gid": 0}}, "from 0 to"),
    ({"process__rlimits": [{"type": "RLIMIT_AS"}]}, "has no soft"),
    (
        {"mounts": [{"destination": "/x", "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}]},
        "both uidMappings and gidMappings",
    ),
    ({"annotations": {"": "x"}}, "has no name"),
    ({"mounts": {}}, "must be an array"),
    ({"hostname": "x", "linux__namespaces": []}, "needs a uts namespace"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_wrong_bundle(place: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Failure, match=sentence):
        validate.check(bundle(**changes), place)


def test_template_is_right(place: str) -> None:
    for rootless in (False, True):
        assert validate.check(show.template(rootless=rootless), place)


def test_limits_of_version_1() -> None:
    resources = {
        "memory": {"limit": 100, "swap": 200}, "cpu": {"quota": -1, "shares": 2}, "pids": {"limit": 0},
        "devices": [{"allow": False, "access": "rwm"}],
    }  # fmt: skip
    writes = groupfiles.version1(resources)
    assert writes[:5] == [
        ("memory", "memory.limit_in_bytes", "100"),
        ("memory", "memory.memsw.limit_in_bytes", "200"),
        ("cpu", "cpu.shares", "2"),
        ("cpu", "cpu.cfs_quota_us", "-1"),
        ("pids", "pids.max", "0"),
    ]
    assert writes[5] == ("devices", "devices.deny", "a *:* rwm")
    assert ("devices", "devices.allow", "c 1:3 rwm") in writes
    with pytest.raises(Failure, match="version 2"):
        groupfiles.version1({"unified": {"memory.high": "1"}})


def test_limits_of_version_2() -> None:
    resources = {
        "memory": {"limit": 100, "swap": 150, "reservation": 10},
        "cpu": {"shares": 262144, "period": 50000},
        "pids": {"limit": -1},
        "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
        "unified": {"memory.high": "90"},
    }
    assert groupfiles.version2(resources) == [
        ("memory.swap.max", "50"), ("memory.max", "100"), ("memory.low", "10"), ("cpu.weight", "10000"),
        ("cpu.max", "max 50000"), ("pids.max", "max"), ("io.max", "8:0 rbps=5"), ("memory.high", "90"),
    ]  # fmt: skip
    for wrong in ({"unified": {"../x": "1"}}, {"unified": {"cgroup.procs": "1"}}, {"memory": {"swap": 5}}):
        with pytest.raises(Failure):
            groupfiles.version2(wrong)


def decide(program: bytes, kind: int, rights: int, major: int, minor: int) -> int:
    """What a device program answers: an interpreter of the instructions that it is made of."""
    context = [rights << 16 | kind, major, minor]
    registers = [0] * 11
    position = 0
    code = [program[start : start + 8] for start in range(0, len(program), 8)]
    while True:
        opcode, pair = code[position][0], code[position][1]
        target, source = pair & 15, pair >> 4
        offset = int.from_bytes(code[position][2:4], "little", signed=True)
        value = int.from_bytes(code[position][4:8], "little", signed=True)
        position += 1
        match opcode:
            case 0x61:
                registers[target] = context[offset // 4]
            case 0xBC:
                registers[target] = registers[source]
            case 0x54:
                registers[target] &= value & 0xFFFFFFFF
            case 0x74:
                registers[target] >>= value
            case 0xB7:
                registers[target] = value
            case 0x55:
                position += offset if registers[target] != value else 0
            case 0x45:
                position += offset if registers[target] & value else 0
            case 0x05:
                position += offset
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown instruction {opcode:#x}")


BLOCK, CHAR = 1, 2
MKNOD, READ, WRITE = 1, 2, 4


def test_device_program_follows_the_order_of_the_rules() -> None:
    program = devices.program(
        groupfiles.device_rules(
            {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "b", "major": 8, "access": "r"},
                    {"allow": True, "type": "b", "major": 8, "minor": 1, "access": "w"},
                    {"allow": False, "type": "b", "major": 8, "minor": 2, "access": "r"},
                ]
            }
        )
    )
    assert decide(program, CHAR, READ | WRITE, 1, 3) == 1
    assert decide(program, CHAR, READ, 10, 229) == 0
    assert decide(program, CHAR, MKNOD, 10, 229) == 1
    assert decide(program, BLOCK, READ, 8, 0) == 1
    assert decide(program, BLOCK, READ | WRITE, 8, 0) == 0
    assert decide(program, BLOCK, READ | WRITE, 8, 1) == 1
    assert decide(program, BLOCK, READ, 8, 2) == 0
    assert decide(program, BLOCK, WRITE, 9, 0) == 0


def test_device_program_without_rules_leaves_it_to_the_group_above() -> None:
    assert decide(devices.program([]), BLOCK, READ | WRITE | MKNOD, 8, 0) == 1


def test_too_many_device_rules_are_refused() -> None:
    with pytest.raises(Failure, match="more than one program can hold"):
        devices.program([{"allow": True, "type": "c", "major": n, "minor": 1} for n in range(200)])


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", ("container.slice", "gear-box.scope")),
        ("machine.slice:libpod:abc", ("machine.slice", "libpod-abc.scope")),
        (":x:y", ("container.slice", "x-y.scope")),
        ("a.slice::y.scope", ("a.slice", "y.scope")),
        (":x:a+b", ("container.slice", "x-a\\x2bb.scope")),
    ],
)
def test_scopes(path: str, names: tuple[str, str]) -> None:
    assert placement.scope_name(path, "box") == names


@pytest.mark.parametrize("path", ["/a/b", "a:b", "slice:a:b", "a.slice:b:", "a:b:c:d"])
def test_what_can_be_no_scope(path: str) -> None:
    with pytest.raises(Failure):
        placement.scope_name(path, "box")


def test_paths_of_groups() -> None:
    assert placement.group_path("", "box") == "/gear-oci-box"
    assert placement.group_path("/a/b", "box") == "/a/b"
    assert placement.group_path("a//b/", "box") == "/a/b"
    for wrong in ("/", "//", "a.slice:b:c"):
        with pytest.raises(Failure):
            placement.group_path(wrong, "box")


def test_options_of_update() -> None:
    options = arguments.parse("--memory 10m --cpu-quota -1 --cpuset-cpus 0-1 box".split(), updates.OPTIONS)
    assert updates.resources(options) == {"memory": {"limit": 10 << 20}, "cpu": {"quota": -1, "cpus": "0-1"}}
    with pytest.raises(Failure, match="needs --resources"):
        updates.resources(arguments.parse([], updates.OPTIONS))
    with pytest.raises(Failure, match="takes a number"):
        updates.resources(arguments.parse(["--memory", "x"], updates.OPTIONS))


def test_features_name_only_what_there_is() -> None:
    features = show.features()
    assert features["ociVersionMax"] == state.OCI_VERSION
    assert {"ro", "rro", "bind", "rprivate", "idmap", "nosymfollow"} <= set(features["mountOptions"])
    assert not features["linux"]["intelRdt"]["enabled"]


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("KILL", 9), ("SIGTERM", 15), ("sigrtmin+3", 37), ("RTMIN", 34)]
)
def test_signals(text: str, number: int) -> None:
    assert cli._signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "NOTHING", "KILL+1", "RTMIN+x", "_x"])
def test_what_can_be_no_signal(text: str) -> None:
    with pytest.raises(Failure):
        cli._signal_number(text)
