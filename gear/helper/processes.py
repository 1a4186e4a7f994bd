"""Which process is the payload of a unit, asked of the kernel's files.

For programs without rights: dbus-daemon turns away users that it finds in no list.
"""

from __future__ import annotations

import posix as os

# Where control groups are mounted: version 2 beside version 1, systemd's own of version 1, version 2 alone.
_HIERARCHIES = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup")


def payload(unit: str) -> int | None:
    """The payload's pid of the container with the service *unit*; None while there is none.

    It is the first of its pid namespace or, in the host's, a child of PID 1 that is none of the unit's own programs.
    """
    child = None
    for pid in _members(unit):
        try:
            with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
                lines = file.read().split(b"\n")
        except OSError:  # it has ended
            continue
        values = dict([line.split(b":", 1) for line in lines if line.startswith((b"NSpid:", b"PPid:"))])
        numbers = values.get(b"NSpid", b"").split()
        if len(numbers) == 2 and numbers[1] == b"1":
            return pid
        if len(numbers) == 1 and values.get(b"PPid", b"").strip() == b"1":
            child = None if _is_of_unit(pid) else pid
    return child


def _is_of_unit(pid: int) -> bool:
    """Whether *pid* runs what the unit names, not what the image does: the start helper, ExecStop= and the like."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            words = file.read().split(b"\0")
    except OSError:
        return True
    return any([b"/helper/current/" in word for word in words[:5]]) or words[0] == b"/usr/bin/systemctl"


def _members(unit: str) -> list[int]:
    """The processes in the control group of *unit* and below it."""
    beside = _own_parents()
    for hierarchy in _HIERARCHIES:
        # Beside the caller's own, unless an administrator has put one of them into another slice.
        likely = [f"{hierarchy}{parent}/{unit}" for parent in beside]
        for group in (*likely, _search(hierarchy, unit)):
            if group and (found := _processes(group)):
                return found
    return []


def _own_parents() -> list[str]:
    with open("/proc/self/cgroup", "rb", buffering=0) as file:
        paths = [line.split(":", 2)[2] for line in file.read().decode().splitlines()]
    return [path.rpartition("/")[0] for path in paths if path != "/"]


def _search(directory: str, unit: str) -> str:
    """The group of *unit* below *directory*, through slices only; empty if there is none."""
    try:
        entries = os.listdir(directory)
    except OSError:
        return ""
    if unit in entries:
        return f"{directory}/{unit}"
    for entry in entries:
        if entry.endswith(".slice") and (found := _search(f"{directory}/{entry}", unit)):
            return found
    return ""


def _processes(group: str) -> list[int]:
    try:
        with open(f"{group}/cgroup.procs", "rb", buffering=0) as file:
            found = [int(line) for line in file.read().split()]
        entries = os.listdir(group)
    except OSError:  # gone meanwhile, or a file
        return []
    for entry in entries:
        if "." not in entry or entry.endswith((".scope", ".service", ".slice")):
            found += _processes(f"{group}/{entry}")
    return found
