"""OCI's resources as systemd's properties: tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gear import device_rules, weights
from gear import resources as mapping
from gear.errors import GearError, IntegrityError, UsageError

MAX = mapping.INFINITY
GIB = 1 << 30


@pytest.mark.parametrize(
    ("resources", "properties", "lines"),
    [
        ({}, {}, ""),
        (None, {}, ""),
        ({"memory": None, "cpu": {}, "devices": []}, {}, ""),
        ({"pids": {"limit": 100}}, {"TasksMax": 100}, "TasksMax=100"),
        ({"pids": {"limit": -1}}, {"TasksMax": MAX}, "TasksMax=infinity"),
        # A real limit: nobody but the first process.
        ({"pids": {"limit": 0}}, {"TasksMax": 1}, "TasksMax=1"),
        ({"memory": {"limit": GIB}}, {"MemoryMax": GIB}, f"MemoryMax={GIB}"),
        ({"memory": {"limit": 0, "reservation": 0}}, {}, ""),
        ({"memory": {"swap": 0}}, {"MemorySwapMax": 0}, "MemorySwapMax=0"),
        (
            {"memory": {"limit": GIB, "swap": 0}},
            {"MemoryMax": GIB, "MemorySwapMax": 0},
            f"MemoryMax={GIB} MemorySwapMax=0",
        ),
        (
            {"memory": {"limit": -1}},
            {"MemoryMax": MAX, "MemorySwapMax": MAX},
            "MemoryMax=infinity MemorySwapMax=infinity",
        ),
        (
            {"memory": {"limit": GIB, "swap": 3 * GIB, "reservation": 5}},
            {"MemoryLow": 5, "MemoryMax": GIB, "MemorySwapMax": 2 * GIB},
            f"MemoryLow=5 MemoryMax={GIB} MemorySwapMax={2 * GIB}",
        ),
        (
            {"memory": {"limit": GIB, "swap": GIB}},
            {"MemoryMax": GIB, "MemorySwapMax": 0},
            f"MemoryMax={GIB} MemorySwapMax=0",
        ),
        (
            {"memory": {"limit": GIB, "swap": -1, "reservation": -1}},
            {"MemoryLow": MAX, "MemoryMax": GIB, "MemorySwapMax": MAX},
            f"MemoryLow=infinity MemoryMax={GIB} MemorySwapMax=infinity",
        ),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}, "CPUWeight=100"),
        ({"cpu": {"shares": 0}}, {}, ""),
        ({"cpu": {"shares": 512, "idle": 1}}, {"CPUWeight": 0}, "CPUWeight=idle"),
        ({"cpu": {"shares": 2, "idle": 0}}, {"CPUWeight": 1}, "CPUWeight=1"),
        ({"cpu": {"quota": 150000, "period": 100000}}, {"CPUQuotaPerSecUSec": 1500000}, "CPUQuota=150%"),
        ({"cpu": {"quota": 150000}}, {"CPUQuotaPerSecUSec": 1500000}, "CPUQuota=150%"),
        ({"cpu": {"quota": 33333}}, {"CPUQuotaPerSecUSec": 340000}, "CPUQuota=33.33%"),
        ({"cpu": {"quota": 1}}, {"CPUQuotaPerSecUSec": 10000}, "CPUQuota=0.01%"),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": MAX}, "CPUQuota="),
        (
            {"cpu": {"quota": 5000, "period": 10000}},
            {"CPUQuotaPeriodUSec": 10000, "CPUQuotaPerSecUSec": 500000},
            "CPUQuotaPeriodSec=10000us CPUQuota=50%",
        ),
        (
            {"cpu": {"cpus": "0-2,8", "mems": "1"}},
            {"AllowedCPUs": b"\x07\x01", "AllowedMemoryNodes": b"\x02"},
            "AllowedCPUs=0-2 8 AllowedMemoryNodes=1",
        ),
        ({"blockIO": {"weight": 10}}, {"IOWeight": 1}, "IOWeight=1"),
        ({"blockIO": {"weight": 1000}}, {"IOWeight": 10000}, "IOWeight=10000"),
        ({"blockIO": {"weight": 0}}, {}, ""),
        (
            {
                "blockIO": {
                    "weightDevice": [{"major": 8, "minor": 0, "weight": 500}],
                    "throttleReadBpsDevice": [
                        {"major": 8, "minor": 0, "rate": 600},
                        {"major": 8, "minor": 16, "rate": 0},
                    ],
                    "throttleWriteIOPSDevice": [{"major": 253, "minor": 1, "rate": 7}],
                }
            },
            {
                "IODeviceWeight": [("/dev/block/8:0", 4950)],
                "IOReadBandwidthMax": [("/dev/block/8:0", 600), ("/dev/block/8:16", MAX)],
                "IOWriteIOPSMax": [("/dev/block/253:1", 7)],
            },
            "IODeviceWeight=/dev/block/8:0 4950 IOReadBandwidthMax=/dev/block/8:0 600 "
            "IOReadBandwidthMax=/dev/block/8:16 infinity IOWriteIOPSMax=/dev/block/253:1 7",
        ),
        (
            {
                "memory": {"limit": 5},
                "unified": {"memory.max": "max", "memory.high": "7", "pids.max": "9", "cpu.weight": "200"},
            },
            {"MemoryMax": MAX, "CPUWeight": 200, "MemoryHigh": 7, "TasksMax": 9},
            "MemoryMax=infinity CPUWeight=200 MemoryHigh=7 TasksMax=9",
        ),
        (
            {"unified": {"cpu.max": "50000 200000", "cpuset.cpus": "0,1", "cpu.idle": "1", "io.weight": "7"}},
            {
                "CPUWeight": 0,
                "CPUQuotaPeriodUSec": 200000,
                "CPUQuotaPerSecUSec": 250000,
                "AllowedCPUs": b"\x03",
            },
            "CPUWeight=idle CPUQuotaPeriodSec=200000us CPUQuota=25% AllowedCPUs=0 1",
        ),
        ({"unified": {"cpu.max": "max", "cpu.idle": "0"}}, {"CPUQuotaPerSecUSec": MAX}, "CPUQuota="),
    ],
)
def test_properties(resources: Any, properties: dict[str, Any], lines: str) -> None:
    found = mapping.properties(resources)
    assert found == list(properties.items())
    for name, value in found:
        kind = {"t": int, "s": str, "ay": bytes, "a(ss)": list, "a(st)": list}[mapping.signature(name)]
        assert isinstance(value, kind)
    assert " ".join(f"{name}={text}" for name, text in mapping.unit_lines(resources)) == lines


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(1, 1), (2, 1), (10, 4), (512, 59), (1024, 100), (2048, 174), (262144, 10000), (1 << 40, 10000)],
)
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert weights.weight_of_shares(shares) == weight


@given(st.integers(2, 262144))
def test_more_shares_are_never_less_weight(shares: int) -> None:
    assert 1 <= weights.weight_of_shares(shares) <= weights.weight_of_shares(shares + 1) <= 10000


@pytest.mark.parametrize(
    ("resources", "files"),
    [
        ({}, {}),
        ({"cpu": {"burst": 1000, "quota": 5}}, {"cpu.max.burst": "1000"}),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]},
            {"hugetlb.2MB.max": "4096", "hugetlb.2MB.rsvd.max": "4096"},
        ),
        (
            {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}, "mlx4_0": {"hcaObjects": 1}}},
            {"rdma.max": "mlx4_0 hca_object=1\nmlx5_1 hca_handle=3 hca_object=10"},
        ),
        (
            {"unified": {"memory.oom.group": "1", "misc.max": "sev 1", "memory.max": "5", "io.weight": "7"}},
            {"io.weight": "7", "memory.oom.group": "1", "misc.max": "sev 1"},
        ),
    ],
)
def test_leftovers(resources: dict[str, Any], files: dict[str, str]) -> None:
    assert mapping.leftovers(resources) == files


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ([], "The resources: resources is not an object."),
        ({"memory": {"swap": 5}}, "The resources: resources.memory.swap is limited, but memory is not."),
        (
            {"memory": {"limit": 6, "swap": 5}},
            "The resources: resources.memory.swap is less than the memory limit that it contains.",
        ),
        (
            {"memory": {"limit": "5"}},
            f"The resources: resources.memory.limit is not a number from -1 to {(1 << 63) - 1}.",
        ),
        ({"cpu": {"cpus": "0-"}}, "The resources: resources.cpu.cpus is '0-', not such as 0-3,7."),
        (
            {"cpu": {"cpus": "5-2"}},
            "The resources: resources.cpu.cpus has 5-2, which is no range below 8192.",
        ),
        (
            {"cpu": {"cpus": "99999"}},
            "The resources: resources.cpu.cpus has 99999, which is no range below 8192.",
        ),
        (
            {"unified": {"cpu.weight": "0"}},
            "The resources: resources.unified.cpu.weight is no weight from 1 to 10000.",
        ),
        (
            {"unified": {"memory.max": "5k"}},
            "The resources: resources.unified.memory.max is '5k', which is no number.",
        ),
    ],
)
def test_nonsense_is_refused(resources: Any, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        mapping.properties(resources)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "name", ("../memory.max", "a/b.c", "cgroup.procs", "cgroup.subtree_control", "memory", "", "a.\n")
)
def test_unified_names_files_of_controllers_only(name: str) -> None:
    with pytest.raises(IntegrityError, match="is no file of a controller"):
        mapping.leftovers({"unified": {name: "1"}})


def test_ignored() -> None:
    resources = {
        "memory": {"swappiness": 60, "disableOOMKiller": False, "kernel": 5},
        "network": {"classID": 7, "priorities": []},
        "cpu": {"realtimeRuntime": 9},
    }
    assert mapping.ignored(resources) == [
        "memory.kernel",
        "memory.swappiness",
        "cpu.realtimeRuntime",
        "network.classID",
    ]
    assert mapping.properties(resources) == []


def test_merged() -> None:
    old = {"memory": {"limit": 5, "swap": 7}, "cpu": {"shares": 2}, "devices": [{"allow": True}]}
    changed = mapping.merged(
        old, {"memory": {"limit": 6, "swap": None}, "pids": {"limit": 1}, "blockIO": None}
    )
    assert changed == {**old, "memory": {"limit": 6, "swap": 7}, "pids": {"limit": 1}}
    assert old["memory"] == {"limit": 5, "swap": 7}
    assert dict(mapping.properties(changed))["MemorySwapMax"] == 1


# Devices.

DENY_ALL = {"allow": False, "access": "rwm"}


def allow(
    kind: str, major: int | None = None, minor: int | None = None, access: str = "rwm"
) -> dict[str, Any]:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}


def deny(
    kind: str, major: int | None = None, minor: int | None = None, access: str = "rwm"
) -> dict[str, Any]:
    return {**allow(kind, major, minor, access), "allow": False}


@pytest.mark.parametrize(
    ("rules", "policy", "allowed"),
    [
        ([DENY_ALL], "strict", []),
        ([{"allow": True, "access": "rwm"}], "auto", []),
        ([allow("a")], "auto", []),
        ([{"allow": True}], "auto", []),
        ([allow("a"), DENY_ALL], "strict", []),
        ([DENY_ALL, allow("c", 5, 1), allow("a")], "auto", []),
        ([allow("a"), allow("c", 5, 1)], "auto", []),
        ([DENY_ALL, allow("c", 10, 229, "rw")], "strict", [("/dev/char/10:229", "rw")]),
        # Nothing is allowed before the first rule.
        ([allow("b", 8, 0, "mr")], "strict", [("/dev/block/8:0", "rm")]),
        ([allow("u", 10, 200)], "strict", [("/dev/char/10:200", "rwm")]),
        ([allow("p")], "strict", []),
        (
            [allow("c", -1, -1, "m"), allow("b", None, None, "m")],
            "strict",
            [("char-*", "m"), ("block-*", "m")],
        ),
        ([allow("a", None, None, "m")], "strict", [("char-*", "m"), ("block-*", "m")]),
        ([allow("c", 136, -1, "rw")], "strict", [("char-pts", "rw")]),
        ([allow("c", 1, 3, "r"), allow("c", 1, 3, "w")], "strict", [("/dev/char/1:3", "rw")]),
        ([allow("c", 1, 3), deny("c", 1, 3, "w")], "strict", [("/dev/char/1:3", "rm")]),
        ([allow("c", 1, 3), deny("c", 1, None)], "strict", []),
        (
            [allow("c", 1, 3), deny("b", 1, 3), deny("c", 1, 5), deny("a", 9, 9)],
            "strict",
            [("/dev/char/1:3", "rwm")],
        ),
        ([allow("c", 1, None, "r"), deny("c", 1, 3, "w")], "strict", [("char-mem", "r")]),
        (
            [DENY_ALL, *device_rules.STANDARD],
            "closed",
            [("/dev/tty", "rw"), ("/dev/ptmx", "rw"), ("char-pts", "rw")],
        ),
        (
            [*device_rules.STANDARD, deny("c", 1, 9, "w"), deny("c", 5, None), deny("c", 136)],
            "strict",
            [*((f"/dev/char/1:{minor}", "rw") for minor in (3, 5, 7, 8)), ("/dev/char/1:9", "r")],
        ),
    ],
)
def test_device_rules(rules: list[Any], policy: str, allowed: list[tuple[str, str]]) -> None:
    groups = device_rules.groups("Character devices:\n  1 mem\n\nBlock devices:\n  8 sd\n")
    found = dict(mapping.properties({"devices": rules}, groups))
    assert found == {"DevicePolicy": policy, **({"DeviceAllow": allowed} if allowed else {})}
    lines = mapping.unit_lines({"devices": rules}, groups)
    assert lines == [("DevicePolicy", policy), *(("DeviceAllow", " ".join(item)) for item in allowed)]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([allow("a"), deny("c", 10, 200)], "Device rules that allow everything but c 10:200 can't be enforced: systemd "
         "has no words for exceptions."),
        ([allow("c", 1), deny("c", 1, 3)], "Device rules that allow c 1:* but c 1:3 can't be enforced: systemd has no "
         "words for exceptions."),
        ([allow("c", None, 3)], "Device rules that allow c *:3 of every major number can't be enforced: systemd has no "
         "words for exceptions."),
        ([allow("c", 99)], "No device of this machine is c 99:*: /proc/devices has no such number."),
        ([allow("x", 1, 1)], "The resources: resources.devices[0].type is 'x', which is no kind of device."),
        ([allow("c", 1, 1, "x")], "The resources: resources.devices[0].access is 'x', not made of r, w and m."),
        ([allow("c", -2, 1)], "The resources: resources.devices[0].major is not a device number."),
        ([{"allow": 1}], "The resources: resources.devices[0].allow is not true or false."),
    ],
)  # fmt: skip
def test_device_rules_that_cannot_be(rules: list[Any], message: str) -> None:
    with pytest.raises((UsageError, IntegrityError)) as caught:
        mapping.properties({"devices": rules})
    assert caught.value.message == message


def test_groups_of_devices() -> None:
    text = (
        "Character devices:\n  1 mem\n  4 /dev/vc/0\n  4 tty\n136 pts\n\nBlock devices:\n  8 sd\n259 blkext\n"
    )
    assert device_rules.groups(text) == {
        ("c", 1): "mem",
        ("c", 4): "tty",
        ("c", 136): "pts",
        ("b", 8): "sd",
        ("b", 259): "blkext",
    }


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 65), 1 << 65)
    | st.floats()
    | st.text("0123456789-,. a", max_size=6)
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def _loosely(*names: str, **members: Any) -> Any:
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(names, _JSON), **members})


_HOSTILE = _loosely(
    "rdma",
    "network",
    memory=_loosely("limit", "swap", "reservation"),
    cpu=_loosely("shares", "quota", "period", "burst", "idle", "cpus", "mems"),
    pids=_loosely("limit"),
    blockIO=_loosely("weight", "weightDevice", "throttleReadBpsDevice"),
    devices=st.lists(_loosely("allow", "type", "major", "minor", "access"), max_size=3),
    hugepageLimits=st.lists(_loosely("pageSize", "limit"), max_size=2),
    unified=_loosely("memory.max", "cpu.max", "pids.max", "cpuset.cpus", "io.max", "cpu.weight", "cpu.idle"),
)


@given(_HOSTILE | _JSON)
def test_hostile_resources_end_in_a_sentence(resources: Any) -> None:
    for function in (mapping.properties, mapping.unit_lines, mapping.leftovers, mapping.ignored):
        try:
            function(resources)
        except GearError as error:
            assert error.message.endswith(".")
