"""The limits that are in force: what the kernel's files of a control group say, and of those that it lies in.

systemd's properties say what was asked of it; these files what came of it, whoever has written them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_ROOT = "/sys/fs/cgroup"
# Where the controllers of version 1 are, and the file there that says what one of version 2 does.
_VERSION_1 = {
    "memory.max": "memory/memory.limit_in_bytes",
    "memory.low": "memory/memory.soft_limit_in_bytes",
    "pids.max": "pids/pids.max",
    "cpuset.cpus.effective": "cpuset/cpuset.effective_cpus",
    "cpuset.mems.effective": "cpuset/cpuset.effective_mems",
}
_FILES = (
    *("memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.max", "memory.oom.group"),
    *("cpu.weight", "cpu.max", "cpuset.cpus.effective", "cpuset.mems.effective"),
    *("io.weight", "io.max", "pids.max"),
)
# Those whose least value on the way down holds.
_LEAST = ("memory.max", "memory.high", "memory.swap.max", "pids.max")
# Above this, version 1 means no limit.
_ENDLESS = 1 << 62


def limits(group: str) -> dict[str, Any]:
    """The files of the control group *group* (as in /proc/PID/cgroup) by their name, and under `effective` what is
    left of some by the groups above; empty for a group that is not there."""
    found: dict[str, Any] = {
        name: text for name in (*_FILES, *_hugepages(group)) if (text := _read(group, name))
    }
    if found:
        found["effective"] = {name: least for name in _LEAST if (least := _least(group, name)) is not None}
        if (share := _processors(group)) is not None:
            found["effective"]["cpu.max"] = share
    return found


def _read(group: str, name: str) -> str | None:
    if not group:
        return None
    for path in (f"{_ROOT}{group}/{name}", *_of_version_1(group, name)):
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        except OSError:  # no such controller here
            continue
    return None


def _of_version_1(group: str, name: str) -> Iterable[str]:
    if name in _VERSION_1:
        controller, _, file = _VERSION_1[name].partition("/")
        yield f"{_ROOT}/{controller}{group}/{file}"


def _hugepages(group: str) -> list[str]:
    try:
        names = os.listdir(f"{_ROOT}{group}")
    except OSError:
        return []
    return sorted(name for name in names if name.startswith("hugetlb.") and name.endswith("B.max"))


def _way(group: str) -> Iterable[str]:
    """The group and all above it but the root, which has no limits."""
    while len(group) > 1:
        yield group
        group = os.path.dirname(group)


def _least(group: str, name: str) -> int | None:
    """The least number in the file *name* on the way; None for no limit."""
    numbers = [int(text) for part in _way(group) if (text := _read(part, name)) and text.isdigit()]
    return min((number for number in numbers if number < _ENDLESS), default=None)


def _processors(group: str) -> float | None:
    """How many processors' worth of time cpu.max leaves on the way."""
    shares = []
    for part in _way(group):
        quota, _, period = (_read(part, "cpu.max") or "max 1").partition(" ")
        if quota.isdigit() and period.isdigit():
            shares.append(int(quota) / int(period))
    return min(shares, default=None)


def forget_devices(group: str) -> None:
    """Take away the limits of all devices in *group*: PID 1 writes those that it knows when it applies limits, and
    leaves those as they are that it has been told of before."""
    lines = (_read(group, "io.max") or "").splitlines()
    for device in [line.split()[0] for line in lines if line]:
        with suppress(OSError):  # gone meanwhile
            with open(f"{_ROOT}{group}/io.max", "w", encoding="ascii") as file:
                file.write(f"{device} rbps=max wbps=max riops=max wiops=max")


def usage(group: str) -> dict[str, int]:
    """What *group* uses: bytes of memory, processes, and microseconds of processor time, as far as there are files."""
    found = {}
    for name, file in (("memory", "memory.current"), ("tasks", "pids.current")):
        text = _read(group, file)
        if text and text.isdigit():
            found[name] = int(text)
    for line in (_read(group, "cpu.stat") or "").splitlines():
        key, _, text = line.partition(" ")
        if key == "usage_usec":
            found["cpu_usec"] = int(text)
    return found
