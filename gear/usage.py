"""What a container uses, as the kernel counts it: processor, memory, files, network, tasks, and how long it waits.

Read from the files of its control group and from /proc, with no call to PID 1.  What a machine does not count is None,
never 0: on version 1 that is pressure and the peak of swap, and any controller that systemd has no group in.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from gear import groups
from gear.records import dataclass, field

_MOUNT = "/sys/fs/cgroup"
_UNIFIED = (f"{_MOUNT}/unified", _MOUNT)
# Version 1 says "no limit" by the largest number of pages.
_NO_LIMIT = 1 << 62
RESOURCES = ("cpu", "memory", "io")


@dataclass(frozen=True)
class Pressure:
    """How long tasks waited for a resource: `some` of them, or all at once (`full`); accounting/psi.rst."""

    percent: float  # of the last ten seconds
    seconds: float  # in all


@dataclass(frozen=True)
class Usage:
    """Counters since the container was started, and what it has now.  Sizes are bytes."""

    at: float  # seconds of the monotonic clock
    cpu_seconds: float | None = None
    cpu_quota: float | None = None  # processors; None: no limit
    throttled_periods: int | None = None
    throttled_seconds: float | None = None
    memory: int | None = None
    memory_limit: int | None = None
    memory_peak: int | None = None
    swap: int | None = None
    swap_limit: int | None = None
    oom_kills: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    reads: int | None = None
    writes: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None
    received_packets: int | None = None
    sent_packets: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    # By (resource, "some" or "full").
    pressure: Mapping[tuple[str, str], Pressure] = field(default_factory=dict)


def read(group: str, pid: int | None) -> Usage | None:
    """What the control group *group* uses, and the network namespace of process *pid*; None when there is no such
    group, as when the container has just ended."""
    directory = _unified(group)
    if directory is None:
        return None
    found: dict[str, float | int | None] = {}
    with_controllers = os.path.exists(f"{_MOUNT}/cgroup.controllers")
    found |= _version2(directory) if with_controllers else _version1(group, directory)
    return Usage(time.monotonic(), pressure=_pressures(directory), **found, **_network(pid))  # type: ignore[arg-type]


def is_there(group: str) -> bool:
    """Whether there is a control group of this path."""
    return _unified(group) is not None


def _unified(group: str) -> str | None:
    for mount in _UNIFIED:
        if os.path.exists(f"{mount}{group}/cgroup.procs"):
            return mount + group
    return None


def payload(group: str, known: int | None) -> int | None:
    """A process of the container: *known* while it is in the group still, or else the first of its pid namespace."""
    directory = _unified(group)
    if (
        known is not None
        and directory is not None
        and str(known) in _text(f"{directory}/cgroup.procs").split()
    ):
        return known
    return groups.payload(group)


def _text(path: str) -> str:
    """The content of a file, empty when it is not there (ENODEV: its group has just gone)."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode("ascii", "replace")
    except OSError:
        return ""


def _number(path: str) -> int | None:
    """The number in a file; None for `max` and for what is not there."""
    text = _text(path).strip()
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _keyed(path: str) -> dict[str, int]:
    """Lines of a key and a number."""
    found = {}
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _version2(directory: str) -> dict[str, float | int | None]:
    cpu = _keyed(f"{directory}/cpu.stat")
    quota = _text(f"{directory}/cpu.max").split()
    return {
        "cpu_seconds": _scaled(cpu.get("usage_usec"), 1e-6),
        "cpu_quota": int(quota[0]) / int(quota[1]) if quota and quota[0] != "max" else None,
        "throttled_periods": cpu.get("nr_throttled"),
        "throttled_seconds": _scaled(cpu.get("throttled_usec"), 1e-6),
        "memory": _number(f"{directory}/memory.current"),
        "memory_limit": _number(f"{directory}/memory.max"),
        "memory_peak": _number(f"{directory}/memory.peak"),  # Linux 5.19
        "swap": _number(f"{directory}/memory.swap.current"),
        "swap_limit": _number(f"{directory}/memory.swap.max"),
        "oom_kills": _keyed(f"{directory}/memory.events").get("oom_kill"),
        "pids": _number(f"{directory}/pids.current"),
        "pids_limit": _number(f"{directory}/pids.max"),
        **_files(_text(f"{directory}/io.stat"), os.path.exists(f"{directory}/io.stat")),
    }


def _files(text: str, counted: bool) -> dict[str, int | None]:
    """The sum of what io.stat says of each device.  The file is empty before the first transfer."""
    names = {"rbytes": "read_bytes", "wbytes": "written_bytes", "rios": "reads", "wios": "writes"}
    if not counted:
        return dict.fromkeys(names.values())
    found = dict.fromkeys(names.values(), 0)
    for word in text.split():
        key, _, value = word.partition("=")
        if key in names and value.isdigit():
            found[names[key]] += int(value)
    return dict(found)


def _version1(group: str, directory: str) -> dict[str, float | int | None]:
    """As systemd has it on a machine with controllers of version 1: each below a directory of its own."""
    place = {name: f"{_MOUNT}/{name}{group}" for name in ("cpu", "cpuacct", "memory", "blkio", "pids")}
    spent = _number(f"{place['cpuacct']}/cpuacct.usage")
    # Version 2 counts this much without any controller.
    usage = _keyed(f"{directory}/cpu.stat").get("usage_usec")
    throttled = _keyed(f"{place['cpu']}/cpu.stat")
    quota, period = (_number(f"{place['cpu']}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    memory = _number(f"{place['memory']}/memory.usage_in_bytes")
    both = _number(f"{place['memory']}/memory.memsw.usage_in_bytes")
    sizes = _services(f"{place['blkio']}/blkio.throttle.io_service_bytes_recursive")
    counts = _services(f"{place['blkio']}/blkio.throttle.io_serviced_recursive")
    return {
        "cpu_seconds": _scaled(spent, 1e-9) if spent is not None else _scaled(usage, 1e-6),
        "cpu_quota": quota / period if quota and period else None,
        "throttled_periods": throttled.get("nr_throttled"),
        "throttled_seconds": _scaled(throttled.get("throttled_time"), 1e-9),
        "memory": memory,
        "memory_limit": _number(f"{place['memory']}/memory.limit_in_bytes"),
        "memory_peak": _number(f"{place['memory']}/memory.max_usage_in_bytes"),
        "swap": None if both is None or memory is None else max(0, both - memory),
        "oom_kills": _keyed(f"{place['memory']}/memory.oom_control").get("oom_kill"),
        "pids": _number(f"{place['pids']}/pids.current"),
        "pids_limit": _number(f"{place['pids']}/pids.max"),
        "read_bytes": sizes.get("Read"),
        "written_bytes": sizes.get("Write"),
        "reads": counts.get("Read"),
        "writes": counts.get("Write"),
    }


def _services(path: str) -> dict[str, int]:
    """The sums by kind of blkio's lines `MAJOR:MINOR KIND NUMBER`."""
    found: dict[str, int] = {}
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) == 3 and words[2].isdigit():
            found[words[1]] = found.get(words[1], 0) + int(words[2])
    return found


def _pressures(directory: str) -> dict[tuple[str, str], Pressure]:
    found = {}
    for resource in RESOURCES:
        for line in _text(f"{directory}/{resource}.pressure").splitlines():
            kind, *words = line.split()
            values = dict(word.split("=", 1) for word in words)
            found[resource, kind] = Pressure(float(values["avg10"]), int(values["total"]) / 1e6)
    return found


def _network(pid: int | None) -> dict[str, int | None]:
    """What the interfaces of a network namespace have carried, but for the loopback; None for the host's own."""
    names = ("received_bytes", "received_packets", "sent_bytes", "sent_packets")
    nothing: dict[str, int | None] = dict.fromkeys(names)
    try:
        if pid is None or os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/1/ns/net"):
            return nothing
    except OSError:
        return nothing
    lines = _text(f"/proc/{pid}/net/dev").splitlines()[2:]
    if not lines:
        return nothing
    sums = dict.fromkeys(names, 0)
    for line in lines:
        interface, _, numbers = line.partition(":")
        fields = numbers.split()
        if interface.strip() != "lo" and len(fields) == 16:
            for name, position in zip(names, (0, 1, 8, 9), strict=True):
                sums[name] += int(fields[position])
    return dict(sums)
