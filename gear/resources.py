"""What OCI calls `linux.resources`, as systemd's properties: the one mapping, for units and for scopes.

Pure.  OCI's numbers are those of control groups of version 1; here they become those of version 2, which systemd has
properties for.  Not for applying them: units get lines (gear/units.py), scopes get properties over D-Bus, and what
systemd has no property for is written to files of a delegated group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from gear import device_rules
from gear.document import Node
from gear.patterns import pattern
from gear.records import dataclass
from gear.weights import io_weight, weight_of_shares

INFINITY = (1 << 64) - 1
# The kernel's default period of cpu.max, in microseconds; systemd's as well.
_PERIOD = 100_000
# cpu.weight of a group without weight is 100, and "idle" is 0 over D-Bus (systemd 252).
_IDLE = 0
_CPUS = 8192
_LIST = pattern(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*", re.ASCII)
_THROTTLES = {
    "throttleReadBpsDevice": "IOReadBandwidthMax",
    "throttleWriteBpsDevice": "IOWriteBandwidthMax",
    "throttleReadIOPSDevice": "IOReadIOPSMax",
    "throttleWriteIOPSDevice": "IOWriteIOPSMax",
}
# Files of `unified` that systemd writes itself, and would overwrite.
_SIZES = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}
# What only control groups of version 1 have.
_GONE = {
    "memory": ("kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy"),
    "cpu": ("realtimeRuntime", "realtimePeriod"),
    "blockIO": ("leafWeight",),
    "network": ("classID", "priorities"),
}


# The D-Bus types of properties; all others are t.
_TYPES = {
    "AllowedCPUs": "ay",
    "AllowedMemoryNodes": "ay",
    "DeviceAllow": "a(ss)",
    "DevicePolicy": "s",
    **dict.fromkeys(("IODeviceWeight", *_THROTTLES.values()), "a(st)"),
}


@dataclass(frozen=True)
class Setting:
    """One property: its name and value over D-Bus, and its name and value, or values, in a unit file."""

    name: str
    value: Any
    line: str
    texts: tuple[str, ...]


def properties(
    resources: Any, groups: Mapping[tuple[str, int], str] = device_rules.GROUPS
) -> list[tuple[str, Any]]:
    """Properties for StartTransientUnit and SetUnitProperties; raises GearError for what can't be.

    Types are those of signature(): int for t, str for s, bytes for ay, pairs for a(ss) and a(st).
    *groups* are device_rules.groups() of this machine, for rules about a whole major number.
    """
    return [(setting.name, setting.value) for setting in _settings(resources, groups)]


def signature(name: str) -> str:
    """The D-Bus type of one of the properties()."""
    return _TYPES.get(name, "t")


def unit_lines(
    resources: Any, groups: Mapping[tuple[str, int], str] = device_rules.GROUPS
) -> list[tuple[str, str]]:
    """The same as lines of a unit file, a property with several values as several lines."""
    return [(setting.line, text) for setting in _settings(resources, groups) for text in setting.texts]


def leftovers(resources: Any) -> dict[str, str]:
    """Files of a control group of version 2 that systemd has no property for, and what to write.

    Of a text of several lines each line is a write of its own (rdma.max).
    """
    node = _root(resources)
    files: dict[str, str] = {}
    if (cpu := node.node("cpu")) and (burst := _number(cpu, "burst")) is not None:
        files["cpu.max.burst"] = str(burst)
    for limit in node.nodes("hugepageLimits"):
        size = limit.text("pageSize", None)
        if not re.fullmatch(r"[1-9][0-9]{0,5}[KMG]B", size):
            limit.fail("pageSize", f"is {size[:20]!r}, not such as 2MB")
        # The reservation as well: with .max alone a fault can still end in SIGBUS.
        for name in ("max", "rsvd.max"):
            files[f"hugetlb.{size}.{name}"] = str(_number(limit, "limit") or 0)
    if rdma := node.node("rdma"):
        files["rdma.max"] = "\n".join(_rdma(rdma, device) for device in sorted(rdma.value))
    for name, text in sorted(node.mapping("unified").items()):
        if not re.fullmatch(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)+", name) or name.startswith("cgroup."):
            node.fail("unified", f"has {name[:80]!r}, which is no file of a controller")
        if name not in _UNIFIED:
            files[name] = text
    return files


def ignored(resources: Any) -> list[str]:
    """Members that are set, and that only version 1 of control groups has a meaning for; to be told, not to fail."""
    node = _root(resources)
    return [
        f"{part}.{name}"
        for part, names in _GONE.items()
        if (member := node.node(part))
        for name in names
        if member.value.get(name) not in (None, False, 0, [])
    ]


def merged(resources: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """*resources* with *changes*, which name only what is to change: what `update` of a container means."""
    result = dict(resources)
    for name, value in changes.items():
        old = result.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[name] = merged(old, value)
        elif value is not None:
            result[name] = value
    return result


def _root(resources: Any) -> Node:
    return Node({"resources": resources}, "The resources").node("resources") or Node({}, "The resources")


def _number(node: Node, name: str, least: int = 0, most: int = INFINITY) -> int | None:
    value = node.value.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        node.fail(name, f"is not a number from {least} to {most}")
    return value


def plain(name: str, value: int, line: str | None = None, text: str | None = None) -> Setting:
    """A property that is a number."""
    if text is None:
        text = "infinity" if value == INFINITY else str(value)
    return Setting(name, value, line or name, (text,))


def _settings(resources: Any, groups: Mapping[tuple[str, int], str]) -> list[Setting]:
    """Everything that systemd has a word for, in the order of units; `unified` comes last, and so wins."""
    node = _root(resources)
    found: list[Setting] = []
    if pids := node.node("pids"):
        found += _tasks(_number(pids, "limit", -1, (1 << 63) - 1))
    if memory := node.node("memory"):
        found += _memory(memory)
    if cpu := node.node("cpu"):
        found += _cpu(cpu)
    if block := node.node("blockIO"):
        found += _block(block)
    found += _unified(node)
    # The last of a name is what `unified` said.
    found = list({setting.name: setting for setting in found}.values())
    if rules := node.nodes("devices"):
        policy, allowed = device_rules.settings(rules, groups)
        found.append(Setting("DevicePolicy", policy, "DevicePolicy", (policy,)))
        texts = tuple(f"{device} {access}" for device, access in allowed)
        if allowed:
            found.append(Setting("DeviceAllow", allowed, "DeviceAllow", texts))
    return found


def _tasks(limit: int | None) -> list[Setting]:
    if limit is None:
        return []
    # systemd takes no 0.  With 1 as with 0 the first process is all there is.
    return [plain("TasksMax", INFINITY if limit < 0 else max(limit, 1))]


def _memory(node: Node) -> list[Setting]:
    """0 is "not set", as for runc: nothing runs in no memory.  Of swap it is none at all, as for crun."""
    most = (1 << 63) - 1
    limit = _number(node, "limit", -1, most) or 0
    swap = _number(node, "swap", -1, most)
    reservation = _number(node, "reservation", -1, most) or 0
    found = []
    if reservation:
        found.append(plain("MemoryLow", INFINITY if reservation < 0 else reservation))
    if limit:
        found.append(plain("MemoryMax", INFINITY if limit < 0 else limit))
    if swap == 0:
        found.append(plain("MemorySwapMax", 0))
    elif (swap or 0) < 0 or (limit < 0 and swap is None):
        found.append(plain("MemorySwapMax", INFINITY))
    elif swap:
        # Version 1 limits memory and swap together, version 2 swap alone.
        if limit <= 0:
            node.fail("swap", "is limited, but memory is not")
        if swap < limit:
            node.fail("swap", "is less than the memory limit that it contains")
        found.append(plain("MemorySwapMax", swap - limit))
    return found


def _cpu(node: Node) -> list[Setting]:
    found = []
    if _number(node, "idle", -(1 << 63), (1 << 63) - 1) == 1:
        found.append(plain("CPUWeight", _IDLE, text="idle"))
    elif shares := _number(node, "shares"):
        found.append(plain("CPUWeight", weight_of_shares(shares)))
    period = _number(node, "period", 0, 1_000_000) or 0
    found += quota(_number(node, "quota", -(1 << 63), (1 << 63) - 1) or 0, period)
    for member, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if text := node.text(member).strip():
            found.append(Setting(name, _mask(node, member, text), name, (text.replace(",", " "),)))
    return found


def quota(amount: int, period: int) -> list[Setting]:
    """*amount* microseconds of processor time in *period*, the usual one if that is 0; less than 0 is no limit."""
    found = []
    if period and period != _PERIOD:
        found.append(plain("CPUQuotaPeriodUSec", period, "CPUQuotaPeriodSec", f"{period}us"))
    if amount < 0:
        found.append(plain("CPUQuotaPerSecUSec", INFINITY, "CPUQuota", ""))
    elif amount:
        share = amount / (period or _PERIOD)
        # systemd keeps whole percents of a property over a reload, so a part of one is made whole at once.
        each = max(math.ceil(round(share * 100, 6)), 1) * 10_000
        text = f"{max(share * 100, 0.01):.2f}".rstrip("0").rstrip(".") + "%"
        found.append(plain("CPUQuotaPerSecUSec", each, "CPUQuota", text))
    return found


def _mask(node: Node, member: str, text: str) -> bytes:
    if not _LIST.fullmatch(text):
        node.fail(member, f"is {text[:40]!r}, not such as 0-3,7")
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not int(first) <= int(last or first) < _CPUS:
            node.fail(member, f"has {part}, which is no range below {_CPUS}")
    return number_mask(text)


def number_mask(text: str) -> bytes:
    """A list of numbers such as 0-3,7 as the bits that systemd takes over D-Bus, the lowest first."""
    bits = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        bits |= (1 << (int(last or first) + 1)) - (1 << int(first))
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _device(node: Node) -> str:
    major, minor = (_number(node, name, 0, (1 << 32) - 1) for name in ("major", "minor"))
    return f"/dev/block/{major or 0}:{minor or 0}"


def _block(node: Node) -> list[Setting]:
    found = []
    if weight := _number(node, "weight", 0, 1000):
        found.append(plain("IOWeight", io_weight(max(weight, 10))))
    weights = [
        (_device(item), io_weight(max(weight, 10)))
        for item in node.nodes("weightDevice")
        if (weight := _number(item, "weight", 0, 1000))
    ]
    pairs = {"IODeviceWeight": weights}
    for member, name in _THROTTLES.items():
        # A rate of 0 is no limit, as in version 1.
        pairs[name] = [
            (_device(item), _number(item, "rate", 0, INFINITY) or INFINITY) for item in node.nodes(member)
        ]
    for name, values in pairs.items():
        if values:
            texts = tuple(f"{path} {'infinity' if n == INFINITY else n}" for path, n in values)
            found.append(Setting(name, values, name, texts))
    return found


def _unified(node: Node) -> list[Setting]:
    """Those files that systemd writes itself, as its properties; the others are leftovers()."""
    found = []
    for name, text in sorted(node.mapping("unified").items()):
        if name in _UNIFIED:
            word = text.strip()
            member = Node({name: word}, node.what, f"{node.path}unified.")
            found += _unified_file(member, name, word)
    return found


def _unified_file(node: Node, name: str, word: str) -> list[Setting]:
    if name in _SIZES:
        value = INFINITY if word == "max" else _text_number(node, name, word)
        return _tasks(value if word != "max" else -1) if name == "pids.max" else [plain(_SIZES[name], value)]
    if name in ("cpuset.cpus", "cpuset.mems"):
        return _cpu(Node({name.removeprefix("cpuset."): word}, node.what, node.path))
    if name == "cpu.max":
        share, _, period = word.partition(" ")
        number = -1 if share == "max" else _text_number(node, name, share)
        return quota(number, _text_number(node, name, period) if period else 0)
    if name == "cpu.idle":
        return [plain("CPUWeight", _IDLE, text="idle")] if word == "1" else []
    value = _text_number(node, name, word)
    if not 1 <= value <= 10000:
        node.fail(name, "is no weight from 1 to 10000")
    return [plain("CPUWeight", value)]


_UNIFIED = frozenset((*_SIZES, "cpuset.cpus", "cpuset.mems", "cpu.max", "cpu.idle", "cpu.weight"))


def _text_number(node: Node, name: str, word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", word, re.ASCII):
        node.fail(name, f"is {word[:40]!r}, which is no number")
    return int(word)


def _rdma(node: Node, device: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", device):
        node.fail(repr(device)[:80], "is no name of a device")
    limits = node.node(device) or Node({}, node.what)
    words = [device]
    for member, key in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
        if (value := _number(limits, member, 0, (1 << 32) - 1)) is not None:
            words.append(f"{key}={value}")
    return " ".join(words)
