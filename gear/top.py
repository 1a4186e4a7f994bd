"""The processes of a container, read from the host's /proc: nothing of the container is executed for it.

What a process calls itself is the container's word; it is cleaned where it is shown (gear/command.py).
"""

from __future__ import annotations

import os
from typing import Any

from gear import accounts, groups, inroot
from gear.errors import GearError
from gear.inside import Running
from gear.records import dataclass

_COMMAND_LIMIT = 4096  # bytes of a command line


@dataclass(frozen=True)
class _Status:
    """What /proc/PID/status and /proc/PID/stat say (proc(5))."""

    uid: int
    inner: int  # the pid in the innermost pid namespace
    parent: int
    state: str
    started: int  # clock ticks since boot
    ticks: int  # of processor time
    name: str


def table(found: Running) -> list[dict[str, Any]]:
    """One row for each process of the container: the members of `gear top --output json`, described in gear(1)."""
    ids = _IdMap(found.pid)
    users = _users(found.pid)
    boot, hertz = _boot_time(), os.sysconf("SC_CLK_TCK")
    rows = []
    for pid in groups.processes(found.group):
        try:
            status = _status(pid)
            command = _command(pid)
        except (OSError, ValueError, LookupError):  # it has ended meanwhile
            continue
        uid = ids.inside(status.uid)
        rows.append(
            {
                "pid": pid,
                "inner_pid": status.inner,
                "parent_pid": status.parent,
                "uid": uid,
                "user": "?" if uid is None else users.get(uid, str(uid)),
                "state": status.state,
                "started": boot + status.started / hertz,
                "cpu_seconds": status.ticks / hertz,
                # In brackets, as ps(1) shows what has no command line.
                "command": command or f"[{status.name}]",
            }
        )
    return rows


class _IdMap:
    """Ids of the host as the container sees them: user_namespaces(7), /proc/PID/uid_map."""

    def __init__(self, pid: int) -> None:
        with open(f"/proc/{pid}/uid_map", encoding="ascii") as file:
            self._ranges = [tuple(int(word) for word in line.split()) for line in file]

    def inside(self, uid: int) -> int | None:
        """The id inside, or None for one that the container does not have."""
        for first, outer, count in self._ranges:
            if outer <= uid < outer + count:
                return first + uid - outer
        return None


def _users(pid: int) -> dict[int, str]:
    """The container's own names of its user ids; none where it has no usable passwd(5) file."""
    try:
        with inroot.opened(inroot.root_of(pid)) as root:
            return accounts.names(inroot.read_file(root, "/etc/passwd"))
    except (OSError, GearError):
        return {}


def _boot_time() -> int:
    with open("/proc/stat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime "))


def _status(pid: int) -> _Status:
    with open(f"/proc/{pid}/status", "rb") as file:
        lines = dict(line.split(b":", 1) for line in file.read().split(b"\n") if b":" in line)
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name is in parentheses and may hold any others, so fields are counted from the last one.
        head, _, rest = file.read().rpartition(b")")
    fields = rest.split()
    numbers = lines[b"NSpid"].split()
    return _Status(
        uid=int(lines[b"Uid"].split()[1]),
        inner=int(numbers[-1]),
        parent=int(fields[1]),
        state=fields[0].decode("ascii"),
        started=int(fields[19]),
        ticks=int(fields[11]) + int(fields[12]),
        name=head.partition(b"(")[2].decode("utf-8", "replace"),
    )


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        data = file.read(_COMMAND_LIMIT)
    return b" ".join(data.rstrip(b"\0").split(b"\0")).decode("utf-8", "replace")
