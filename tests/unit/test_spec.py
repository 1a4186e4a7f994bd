"""The specification: every validator, the round trip, and every way in which spec.json can be damaged."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import rendering
from hypothesis import given
from hypothesis import strategies as st
from strategies import HOSTILE

from gear import budget, isolation, members, mounting, outline, restarts, signals, spec, tunables
from gear.budget import Budget
from gear.errors import IntegrityError, UsageError
from gear.inet import PROTOCOLS
from gear.isolation import Device, Isolation
from gear.link import Link
from gear.mounting import Mount
from gear.network import PORT_MODES, Interface, Network, Port
from gear.outline import ImageRef, Outline
from gear.spec import Spec
from gear.supplies import Supplies

Check = Callable[[Any], Any]

VOLUME_HINT = "Use letters, digits, '_', '.' or '-'; a directory of the host is given as an absolute path."


# ---- validators: what they accept


@pytest.mark.parametrize(
    ("check", "text", "value"),
    [
        (budget.parse_size, "1", 1),
        (budget.parse_size, "512m", 512 << 20),
        (budget.parse_size, "512M", 512 << 20),
        (budget.parse_size, "2g", 2 << 30),
        (budget.parse_size, "1.5k", 1536),
        (budget.parse_size, "1KiB", 1024),
        (budget.parse_size, "1kb", 1024),
        (budget.parse_size, "7b", 7),
        (budget.parse_size, " 1 t ", 1 << 40),
        (budget.memory_limit, 1 << 20, 1 << 20),
        (budget.memory_limit, (1 << 62) - 1, (1 << 62) - 1),
        (budget.cpu_limit, "0.5", 0.5),
        (budget.cpu_limit, 0.01, 0.01),
        (budget.cpu_limit, 8192, 8192.0),
        (budget.pids_limit, 1, 1),
        (budget.pids_limit, 4194304, 4194304),
        (budget.swap_limit, -1, -1),
        (budget.cpu_shares, 2, 2),
        (budget.number_list, "0-3,7,8191", "0-3,7,8191"),
        (outline.slice_name, "web", "web.slice"),
        (outline.slice_name, "container-small.slice", "container-small.slice"),
        (outline.slice_name, "a.b_c-d.e", "a.b_c-d.e.slice"),
        (outline.slice_name, "x" * 200, "x" * 200 + ".slice"),
        (spec.host_name, "web", "web"),
        (spec.host_name, "w", "w"),
        (spec.host_name, "www.example-2.org", "www.example-2.org"),
        (spec.host_name, "x" * 64, "x" * 64),
        (spec.stop_timeout, "0", 0.0),
        (spec.stop_timeout, "2.5", 2.5),
        (spec.stop_timeout, 86400, 86400.0),
        (spec.environment_name, "A B.c-1", "A B.c-1"),
        (mounting.volume_name, "0a_.-", "0a_.-"),
        (mounting.volume_name, "x" * 200, "x" * 200),
        (mounting.host_path, "/", "/"),
        (mounting.host_path, "//a/../b c/", "/b c"),
        (mounting.host_path, "/a%b$c\"d'e\\", "/a%b$c\"d'e\\"),
    ],
)
def test_good(check: Check, text: Any, value: Any) -> None:
    assert check(text) == value
    assert type(check(text)) is type(value)


@pytest.mark.parametrize("policy", restarts.RESTARTS)
def test_good_restart_policies(policy: str) -> None:
    assert restarts.restart_policy(policy) == policy


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("TERM", 15),
        ("term", 15),
        ("sigquit", 3),
        (" 15 ", 15),
        ("1", 1),
        ("9", 9),
        ("SIGKILL", 9),
        ("USR1", 10),
        ("CLD", int(signal.SIGCHLD)),
        ("RTMIN", int(signal.SIGRTMIN)),
        ("SIGRTMIN+3", int(signal.SIGRTMIN) + 3),
        ("rtmax-1", int(signal.SIGRTMAX) - 1),
        ("RTMAX", int(signal.SIGRTMAX)),
        ("64", 64),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert signals.signal_number(text) == number


@given(st.sampled_from(sorted(signal.Signals)))
def test_every_signal_by_name_and_number(number: signal.Signals) -> None:
    for text in (number.name, number.name[3:], number.name.lower(), str(int(number))):
        assert signals.signal_number(text) == int(number)


# ---- validators: what they refuse, in these words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "65",
        "-1",
        "+1",
        "1.0",
        "SIG",
        "SIG_DFL",
        "SIG_BLOCK",
        "SIGNAL",
        "TERM\n[Service]",
        "RTMIN-1",
        "RTMIN+31",
    ]
    + ["RTMAX+1", "RTMIN+", "SIGSIGTERM", "٣", "15 9", "9" * 5000, "RTMIN+99"],
)
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        signals.signal_number(text)
    assert caught.value.message == f"{text[:40]!r} is no signal."
    assert caught.value.hint == "For example SIGTERM, QUIT, 15 or SIGRTMIN+3."


@pytest.mark.parametrize(
    ("check", "values", "message", "hint"),
    [
        (
            budget.parse_size,
            [
                "",
                "m",
                "0",
                "0m",
                "-1",
                "1e3",
                "1x",
                "1 m b",
                "٣m",
                "0.1b",
                "nan",
                "inf",
                "1,5g",
                "9" * 400,
                "9" * 5000,
            ],
            "{value!r} is no size.",
            "Write for example 512m or 2g.",
        ),
        (
            budget.memory_limit,
            [0, -1, (1 << 20) - 1, 1 << 62, True, 1.5, "1m", None],
            "A memory limit of {value!r} bytes can't work.",
            "Give at least 1m.",
        ),
        (
            budget.cpu_limit,
            ["", "0", "0.009", "-1", "8193", "nan", "inf", "x", None, [], 10**400],
            "{value!r} is no number of processors.",
            "Write for example 0.5 or 2.",
        ),
        (
            budget.pids_limit,
            [0, -1, 4194305, True, 1.0, "5", None],
            "{value!r} is no limit of processes.",
            "Give a number from 1 to 4194304.",
        ),
        (
            outline.slice_name,
            [
                "",
                ".slice",
                "-",
                "-a",
                "a-",
                "a--b",
                "a/b",
                "a b",
                "a%b",
                "a\n",
                ".a",
                "ä",
                "a@b",
                "a.slice\n",
            ],
            "{value!r} can't name a slice.",
            "For example container-small or web.slice.",
        ),
        (
            spec.host_name,
            ["", "-a", "a-", ".a", "a.", "a b", "a/b", "a\n", "x" * 65, "ä"],
            "{value!r} can't be a host name.",
            "Use up to 64 letters, digits, '-' and '.'.",
        ),
        (
            restarts.restart_policy,
            ["", "never", "Always", "always\n", "on-failure:3"],
            "{value!r} is no restart policy.",
            "Policies are no, on-failure, always, unless-stopped, on-success, on-abnormal, on-abort, on-watchdog.",
        ),
        (
            spec.stop_timeout,
            ["", "-1", "86401", "nan", "inf", "10s", None, [], 10**400],
            "{value!r} is no time to wait for a stop.",
            "Give seconds, 0 to 86400.",
        ),
        (spec.environment_name, ["", "A=B", "A\0"], "{value!r} can't name an environment variable.", None),
        (
            mounting.volume_name,
            ["", "-a", ".a", "a/b", "a b", "a\n", "ä"],
            "{value!r} can't name a volume.",
            VOLUME_HINT,
        ),
        (
            mounting.host_path,
            ["", "a", "./a", "a/b"],
            "A bind mount's source must be an absolute path on the host, not {value!r}.",
            None,
        ),
        (
            mounting.host_path,
            ["/a\nb", "/a\0b", "/\x1b", "/a\x7f", "/a\tb"],
            "{value!r} can't be bound: it has control characters.",
            None,
        ),
        (
            lambda value: members.container_path(value, "The working directory"),
            ["", "a", "/a\0b"],
            "The working directory must be an absolute path in the container, not {value!r}.",
            None,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad(check: Check, values: list[Any], message: str, hint: str | None) -> None:
    for value in values:
        with pytest.raises(UsageError) as caught:
            check(value)
        assert caught.value.message == message.format(value=value), value
        assert caught.value.hint == hint


# ---- mounts


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", Mount("bind", "/a", "/b")),
        ("/a/:/b/../c:ro,rbind", Mount("bind", "/a", "/c", ("ro", "rbind"))),
        ("data:/data", Mount("volume", "data", "/data")),
        ("data:/data:ro", Mount("volume", "data", "/data", ("ro",))),
        ("/a:/dev/shm", Mount("bind", "/a", "/dev/shm")),
        ("/a:/device", Mount("bind", "/a", "/device")),
        ("/a:/etc/hosts", Mount("bind", "/a", "/etc/hosts")),
    ],
)
def test_volumes(text: str, mount: Mount) -> None:
    assert mounting.parse_volume(text) == mount


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("/tmp", ()),
        ("/tmp:size=64m", ("size=64m",)),
        ("/tmp:mode=1777,size=10%,noexec", ("mode=1777", "size=10%", "noexec")),
        ("/run/:uid=1,gid=2,nr_inodes=1k,ro", ("uid=1", "gid=2", "nr_inodes=1k", "ro")),
    ],
)
def test_tmpfs(text: str, options: tuple[str, ...]) -> None:
    mount = mounting.parse_tmpfs(text)
    assert (mount.kind, mount.source, mount.options) == ("tmpfs", "", options)
    assert mount.destination in ("/tmp", "/run")


NO_VOLUME = "Write /host/directory:/in/container[:ro] or name:/in/container[:ro]."
BIND_OPTIONS = "Options are ro, rw, idmap, nosuid, nodev, noexec, rbind, idmap=..., owner=...."


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "'' is no volume.", NO_VOLUME),
        ("/a", "'/a' is no volume.", NO_VOLUME),
        (":/a", "':/a' is no volume.", NO_VOLUME),
        ("/a:", "'/a:' is no volume.", NO_VOLUME),
        ("/a:/b:", "'/a:/b:' is no volume.", NO_VOLUME),
        ("/a:/b:ro:rw", "'/a:/b:ro:rw' is no volume.", NO_VOLUME),
        ("/a:b", "A mount's destination must be an absolute path in the container, not 'b'.", None),
        ("./a:/b", "'./a' can't name a volume.", VOLUME_HINT),
        ("../a:/b", "'../a' can't name a volume.", VOLUME_HINT),
        ("/a:/", "Nothing can be mounted on / of a container.", "The root comes from the image."),
        ("/a:/x/..", "Nothing can be mounted on / of a container.", "The root comes from the image."),
        ("/a:/proc", "Nothing can be mounted on /proc: /proc belongs to the container's kernel view.", None),
        (
            "/a:/x/../proc/1",
            "Nothing can be mounted on /proc/1: /proc belongs to the container's kernel view.",
            None,
        ),
        (
            "/a:/sys/fs/cgroup",
            "Nothing can be mounted on /sys/fs/cgroup: /sys belongs to the container's kernel view.",
            None,
        ),
        ("/a:/dev", "Nothing can be mounted on /dev: /dev belongs to the container's kernel view.", None),
        (
            "/a:/dev/null",
            "Nothing can be mounted on /dev/null: /dev belongs to the container's kernel view.",
            None,
        ),
        ("/a:/b:suid", "A bind mount has no option 'suid'.", BIND_OPTIONS),
        ("/a:/b:ro,dev", "A bind mount has no option 'dev'.", BIND_OPTIONS),
        ("/a:/b:upperdir=/etc", "A bind mount has no option 'upperdir=/etc'.", BIND_OPTIONS),
        (
            "v:/b:rbind",
            "A volume mount has no option 'rbind'.",
            "Options are ro, rw, nosuid, nodev, noexec, subpath=....",
        ),
    ],
)
def test_what_is_no_volume(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        mounting.parse_volume(text)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tmp", "A mount's destination must be an absolute path in the container, not 'tmp'."),
        ("/tmp:size=", "A tmpfs has no option 'size='."),
        ("/tmp:size=1m,evil", "A tmpfs has no option 'evil'."),
        ("/tmp:mode=0777,", "A tmpfs has no option ''."),
        ("/tmp:size=1m\n", "A tmpfs has no option 'size=1m\\n'."),
        ("/sys", "Nothing can be mounted on /sys: /sys belongs to the container's kernel view."),
    ],
)
def test_what_is_no_tmpfs(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        mounting.parse_tmpfs(text)
    assert caught.value.message == message


# ---- the document


PATHS = st.lists(
    st.text("abc .-%$\"'", min_size=1, max_size=6).filter(lambda part: part not in (".", "..")), min_size=1
)
DESTINATIONS = PATHS.map(lambda parts: "/srv/" + "/".join(parts))
MOUNTS = st.one_of(
    st.builds(
        Mount,
        st.just("bind"),
        DESTINATIONS,
        DESTINATIONS,
        st.lists(st.sampled_from(mounting.BIND_OPTIONS), max_size=3).map(tuple),
    ),
    st.builds(
        Mount,
        st.just("volume"),
        st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True),
        DESTINATIONS,
        st.lists(st.sampled_from(mounting.VOLUME_OPTIONS), max_size=3).map(tuple),
    ),
    st.builds(Mount, st.just("tmpfs"), st.just(""), DESTINATIONS, st.sampled_from([(), ("size=1m", "ro")])),
)
CAPABILITIES = st.lists(st.sampled_from([*isolation.ALL_CAPABILITIES, "ALL"]), max_size=3).map(tuple)
NUMBERS = st.integers(0, 1 << 20)
MODES = st.sampled_from(isolation.NAMESPACE_MODES)
ISOLATIONS = st.builds(
    Isolation,
    privileged=st.booleans(),
    cap_add=CAPABILITIES,
    cap_drop=CAPABILITIES,
    devices=st.lists(
        st.builds(
            Device,
            source=st.sampled_from(["/dev/kvm", "/dev/a b"]),
            destination=st.sampled_from(["/dev/x/y", "/srv/node"]),
            access=st.sampled_from(["r", "rw", "rwm", "m"]),
            kind=st.sampled_from("cb"),
            major=NUMBERS,
            minor=NUMBERS,
            mode=st.integers(0, 0o777),
            uid=NUMBERS,
            gid=NUMBERS,
        ),
        max_size=2,
    ).map(tuple),
    seccomp=st.sampled_from([None, "unconfined", {"defaultAction": "SCMP_ACT_ALLOW"}]),
    no_new_privileges=st.booleans(),
    apparmor=st.sampled_from([None, "unconfined", "my-profile"]),
    label=st.sampled_from([(), ("disable",), ("type:svirt_t", "level:s0:c1,c2")]),
    mask=st.sampled_from([(), ("/proc/x", "/sys/y")]),
    unmask=st.sampled_from([(), ("ALL",), ("/proc/*",)]),
    pid=MODES,
    ipc=MODES,
    uts=MODES,
    cgroupns=MODES,
    sysctl=st.dictionaries(st.sampled_from(["net.core.somaxconn", "kernel.shmmax"]), HOSTILE),
    ulimits=st.dictionaries(st.sampled_from(tunables.ULIMITS), st.sampled_from(["1:2", "0:infinity"])),
    init=st.sampled_from([None, "/usr/bin/catatonit"]),
    shm_size=st.none() | st.integers(1, 1 << 40),
    group_add=st.lists(HOSTILE, max_size=2).map(tuple),
    umask=st.none() | st.integers(0, 0o777).map(lambda mask: f"{mask:04o}"),
    timezone=st.sampled_from([None, "local", "Europe/Vienna", "Etc/GMT+5"]),
    systemd=st.sampled_from(isolation.SYSTEMD_MODES),
    oom_score_adj=st.none() | st.integers(-1000, 1000),
)
WORDS = st.lists(HOSTILE, max_size=3).map(tuple)
NUMBERS = st.integers(1, 65535)
PORTS = st.builds(
    Port,
    st.sampled_from(["", "127.0.0.1", "::1", "0.0.0.0"]),
    NUMBERS,
    NUMBERS,
    st.sampled_from(PROTOCOLS),
    st.sampled_from(PORT_MODES),
)
INTERFACES = st.builds(
    Interface,
    st.sampled_from(["default", "a", "b.c-d_e"]),
    st.sampled_from(["", "eth0"]),
    st.none() | st.ip_addresses(v=4).map(str),
    # Mapped ones are IPv4 in other clothes.
    st.none() | st.ip_addresses(v=6).map(str).filter(lambda text: not text.startswith("::ffff:")),
    st.sampled_from(["", "02:00:00:00:00:01"]),
)
LINKS = st.builds(
    Link,
    st.sampled_from(["127.0.0.1", "192.168.1.1", "::1"]),
    NUMBERS,
    st.sampled_from(["db", "localhost", "a.example.org"]),
    NUMBERS,
    st.sampled_from(["", *PROTOCOLS]),
)
NETWORKS = (
    st.sampled_from([Network(), Network("host"), Network("container:db")])
    | st.builds(
        lambda interface, port, idle: Network("bridge", (interface,), (port,), True, idle),
        INTERFACES,
        PORTS.filter(lambda port: port.protocol == "tcp" and port.mode != "fd"),
        st.none() | st.integers(1, 366 * 86400),
    )
    | st.builds(
        lambda interface, ports, links: Network("bridge", (interface,), ports, links=links),
        INTERFACES,
        st.lists(PORTS.filter(lambda port: port.mode != "socket"), max_size=1).map(tuple),
        st.lists(LINKS, max_size=1).map(tuple),
    )
)
_EACH = st.dictionaries(st.sampled_from(["/dev/sda", "/dev/vdb"]), st.integers(1, 10000), max_size=2).map(
    lambda found: tuple(found.items())
)
BUDGETS = st.builds(
    Budget,
    cpu_weight=st.none() | st.integers(1, 10000),
    cpu_quota=st.none() | st.floats(0.01, 8192),
    cpus=st.sampled_from([None, "0", "0-3,7"]),
    memory_nodes=st.sampled_from([None, "0"]),
    memory_low=st.none() | st.integers(1, 1 << 20),
    memory_high=st.none() | st.integers(1 << 20, 1 << 30),
    memory_max=st.none() | st.integers(1 << 30, (1 << 62) - 1),
    memory_swap_max=st.sampled_from([None, -1, 0, 1 << 20]),
    memory_pressure=st.sampled_from([None, "auto", "kill"]),
    oom_policy=st.sampled_from([None, *budget.OOM_POLICIES]),
    tasks_max=st.none() | st.integers(1, 4194304),
    io_weight=st.none() | st.integers(1, 10000),
    io_device_weight=_EACH,
    io_read_bandwidth_max=_EACH,
    hugepages=st.sampled_from([(), (("2MB", 1 << 26),)]),
)
SPECS = st.builds(
    Spec,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True),
    image=st.builds(ImageRef, HOSTILE, HOSTILE),
    uid_base=st.integers(8, 0x6FFF).map(lambda number: number * spec.UID_RANGE_SIZE),
    entrypoint=st.none() | WORDS,
    command=st.none() | WORDS,
    env=st.dictionaries(HOSTILE.filter(lambda name: name and "=" not in name), HOSTILE, max_size=3),
    user=st.none() | HOSTILE,
    workdir=st.none() | DESTINATIONS,
    mounts=st.lists(MOUNTS, max_size=3).map(tuple),
    read_only=st.booleans(),
    hostname=st.none() | st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True),
    labels=st.dictionaries(HOSTILE, HOSTILE, max_size=3),
    slice=st.sampled_from(["container.slice", "web-blog.slice"]),
    resources=BUDGETS,
    restart=st.sampled_from(restarts.RESTARTS),
    stop_signal=st.none() | st.sampled_from(["SIGTERM", "15", "rtmin+3"]),
    stop_timeout=st.none() | st.floats(0, 86400),
    ephemeral=st.booleans(),
    storage=st.sampled_from(spec.STORAGE_DRIVERS),
    isolation=ISOLATIONS,
    network=NETWORKS,
)


@given(SPECS)
def test_round_trip(wanted: Spec) -> None:
    document = json.loads(json.dumps(wanted.to_mapping()))
    again = Spec.from_mapping(document, "spec.json")
    assert again == wanted
    assert again.to_mapping() == wanted.to_mapping()
    shown = Outline.from_mapping(document, "spec.json")
    assert (shown.image, shown.slice, shown.network) == (wanted.image, wanted.slice, wanted.network)
    assert document["version"] == outline.VERSION


def test_every_field_is_in_the_document() -> None:
    fields = set(Spec.__dataclass_fields__)
    # What was not there from the beginning is written when it was asked for.
    asked = rendering.make_spec(health={"test": ["NONE"]}, pace={"delay": 1})
    full = replace(asked, supplies=Supplies(env_sets=("common",)))
    assert set(full.to_mapping()) == fields | {"version"}
    later = {"health", "pace", "supplies"}
    assert set(rendering.make_spec().to_mapping()) == fields - later | {"version"}


def test_smallest_document_gets_the_defaults() -> None:
    found = rendering.make_spec()
    assert found == Spec(name="web", image=ImageRef("nginx:latest", rendering.DIGEST), uid_base=524288)
    assert (found.restart, found.network, found.slice, found.stop_timeout) == (
        "on-failure",
        Network(),
        "container.slice",
        None,
    )
    assert found.unit == "ctr-web.service"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "S is not a container specification: it is no JSON object."),
        (None, "S is not a container specification: it is no JSON object."),
        ("x", "S is not a container specification: it is no JSON object."),
        ({}, "S is a container specification of version None, not 1."),
        ({"version": 2}, "S is a container specification of version 2, not 1."),
        ({"version": "1"}, "S is a container specification of version '1', not 1."),
        ({"version": True}, "S is a container specification of version True, not 1."),
        ({"version": 1}, "S is damaged: /name: missing; /image: missing; /uid_base: missing."),
    ],
)
def test_what_is_no_specification(document: Any, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Spec.from_mapping(document, "S")
    assert caught.value.message == message


MOUNT = {"kind": "bind", "source": "/a", "destination": "/b", "options": []}


@pytest.mark.parametrize(
    ("member", "value", "fault"),
    [
        ("extra", 1, "no such member"),
        ("name", "../x", "'../x' can't name a container."),
        ("name", None, "not as expected (a string is wanted, not None)"),
        ("name", ["web"], "not as expected (a string is wanted, not ['web'])"),
        ("image", "nginx", "not as expected (an object is wanted, not 'nginx')"),
        ("image", {"reference": "x"}, "not as expected ('digest')"),
        ("image", {"reference": "x", "digest": 5}, "not as expected (a string is wanted, not 5)"),
        ("uid_base", 0, "not as expected (0 can't begin a range of 65536 user ids)"),
        ("uid_base", -65536, "not as expected (-65536 can't begin a range of 65536 user ids)"),
        ("uid_base", 65537, "not as expected (65537 can't begin a range of 65536 user ids)"),
        ("uid_base", 0x70000000, "not as expected (1879048192 can't begin a range of 65536 user ids)"),
        ("uid_base", True, "not as expected (True can't begin a range of 65536 user ids)"),
        ("uid_base", 524288.0, "not as expected (524288.0 can't begin a range of 65536 user ids)"),
        ("entrypoint", "sh", "not as expected (an array is wanted, not 'sh')"),
        ("command", [1], "not as expected (a string is wanted, not 1)"),
        ("command", ["a\0"], "not as expected (it holds a NUL byte)"),
        ("env", ["A=B"], "not as expected (an object is wanted, not ['A=B'])"),
        ("env", [], "not as expected (an object is wanted, not [])"),
        ("env", None, "not as expected (an object is wanted, not None)"),
        ("env", {"A": 1}, "not as expected (a string is wanted, not 1)"),
        ("env", {"": "1"}, "'' can't name an environment variable."),
        ("env", {"A=B": "1"}, "'A=B' can't name an environment variable."),
        ("user", 5, "not as expected (a string is wanted, not 5)"),
        ("workdir", "x", "The working directory must be an absolute path in the container, not 'x'."),
        ("mounts", {}, "not as expected (an array is wanted, not {})"),
        ("mounts", None, "not as expected (an array is wanted, not None)"),
        ("mounts", ["/a:/b"], "not as expected (an object is wanted, not '/a:/b')"),
        ("mounts", [MOUNT | {"kind": "nfs"}], "'nfs' is no kind of mount."),
        ("mounts", [MOUNT | {"options": "ro"}], "not as expected (an array is wanted, not 'ro')"),
        ("mounts", [MOUNT | {"options": ["suid"]}], "A bind mount has no option 'suid'."),
        ("mounts", [{"kind": "bind"}], "not as expected ('source')"),
        ("read_only", 1, "not as expected (true or false is wanted, not 1)"),
        ("read_only", None, "not as expected (true or false is wanted, not None)"),
        ("hostname", "a b", "'a b' can't be a host name."),
        ("labels", {"a": None}, "not as expected (a string is wanted, not None)"),
        ("labels", [["a", "b"]], "not as expected (an object is wanted, not [['a', 'b']])"),
        ("slice", "-", "'-' can't name a slice."),
        ("resources", {"memory_max": 5}, "A memory limit of 5 bytes can't work."),
        ("resources", {"cpu_quota": 0}, "0 is no number of processors."),
        ("resources", {"cpu_quota": "1"}, "not as expected (a number is wanted, not '1')"),
        ("resources", {"cpu_quota": True}, "not as expected (a number is wanted, not True)"),
        ("resources", {"tasks_max": 0}, "0 is no limit of processes."),
        ("resources", {"x": 0}, "not as expected (no such member: x)"),
        ("resources", None, "not as expected (an object is wanted, not None)"),
        ("resources", {"io_read_iops_max": {"/dev/a b": 1}}, "'/dev/a b' names no device."),
        ("resources", {"hugepages": {"2x": 1}}, "'2x' is no size of huge pages."),
        (
            "resources",
            {"memory_low": 3 << 20, "memory_max": 2 << 20},
            "--memory-low can't be more than --memory: 3m is, beside 2m.",
        ),
        ("resources", {"cpu_period": 5000}, "A period of processor time takes a quota."),
        (
            "resources",
            {"memory_pressure_limit": 50},
            "A limit of memory pressure means something with --memory-pressure kill only.",
        ),
        ("restart", "never", "'never' is no restart policy."),
        ("restart", None, "not as expected (a string is wanted, not None)"),
        ("stop_signal", "SIGNAL", "'SIGNAL' is no signal."),
        ("stop_timeout", -1, "-1 is no time to wait for a stop."),
        ("stop_timeout", True, "not as expected (a number is wanted, not True)"),
        ("stop_timeout", "5", "not as expected (a number is wanted, not '5')"),
        ("network", {}, "not as expected ('mode')"),
        ("network", "none", "not as expected (an object is wanted, not 'none')"),
        ("network", {"mode": "bridge"}, "The mode bridge and interfaces belong together."),
        ("network", {"mode": "none", "x": 1}, "not as expected (no such member: x)"),
    ],
)
def test_damaged_member(member: str, value: Any, fault: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Spec.from_mapping(rendering.SMALLEST | {member: value}, "/x/spec.json")
    assert caught.value.message == f"/x/spec.json is damaged: /{member}: {fault.rstrip('.')}."
    assert caught.value.exit_status == 1


def test_a_damaged_outline() -> None:
    """What lists read and do not show has no say there."""
    for member in ("image", "slice", "network"):
        with pytest.raises(IntegrityError, match=rf"^/x/spec\.json is damaged: /{member}: "):
            Outline.from_mapping(rendering.SMALLEST | {member: 1, "restart": 1, "more": 1}, "/x/spec.json")
    with pytest.raises(IntegrityError, match="^x is damaged: /image: missing.$"):
        Outline.from_mapping({"version": 1}, "x")
    others: list[Any] = [[], {"version": 2}, {"version": True}]
    for document in others:
        with pytest.raises(IntegrityError, match="^x is "):
            Outline.from_mapping(document, "x")
    assert Outline.from_mapping(rendering.SMALLEST | {"restart": 1, "net": "host"}, "x").network == Network(
        "host"
    )


@pytest.mark.parametrize("mode", ["none", "host"])
def test_network_as_the_first_version_wrote_it(mode: str) -> None:
    assert rendering.make_spec(net=mode).network == Network(mode)
    with pytest.raises(IntegrityError, match="/net: no such member"):
        rendering.make_spec(net=mode, network={"mode": mode})


@pytest.mark.parametrize(
    ("flat", "resources"),
    [
        ({"memory": 1 << 30, "memory_swap": 3 << 29}, {"memory_max": 1 << 30, "memory_swap_max": 1 << 29}),
        ({"memory_swap": -1}, {"memory_swap_max": -1}),
        ({"cpus": 1.5, "cpu_shares": 1024}, {"cpu_quota": 1.5, "cpu_weight": 100}),
        ({"pids_limit": 7, "cpuset_cpus": "0-3"}, {"tasks_max": 7, "cpus": "0-3"}),
        ({"memory": None, "cpus": None, "pids_limit": None, "memory_swap": None, "cpu_shares": None}, {}),
    ],
)
def test_limits_as_the_first_version_wrote_them(flat: dict[str, Any], resources: dict[str, Any]) -> None:
    assert rendering.make_spec(**flat).resources.to_mapping() == resources
    with pytest.raises(IntegrityError, match="no such member"):
        rendering.make_spec(**flat, resources={})


@pytest.mark.parametrize("flat", [{"memory_swap": 1 << 30}, {"memory": 2 << 30, "memory_swap": 1 << 30}])
def test_swap_of_the_first_version_holds_memory(flat: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="of memory and swap can't be"):
        rendering.make_spec(**flat)


def test_all_faults_are_named_at_once() -> None:
    document = rendering.SMALLEST | {"network": {"mode": "x"}, "aaa": 1, "restart": "y", "memory": "z"}
    del document["image"]
    with pytest.raises(IntegrityError) as caught:
        Spec.from_mapping(document, "S")
    assert caught.value.message == (
        "S is damaged: /aaa: no such member; /image: missing; "
        "/resources: A memory limit of 'z' bytes can't work; "
        "/restart: 'y' is no restart policy; /network: 'x' is no mode of a network."
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(rendering.make_spec().to_mapping())), JSON)
def test_any_json_is_a_spec_or_an_integrity_error(member: str, value: Any) -> None:
    try:
        found = Spec.from_mapping(rendering.SMALLEST | {member: value}, "S")
    except IntegrityError as error:
        assert error.message.startswith("S ")
        return
    assert Spec.from_mapping(found.to_mapping(), "S") == found
