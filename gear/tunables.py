"""Kernel parameters and resource limits of a container: their names and values.

Part of the words of gear/isolation.py.
"""

from __future__ import annotations

import re
from typing import Any

from gear.errors import UsageError
from gear.patterns import pattern

# getrlimit(2), as Docker and systemd.exec(5) name them.
ULIMITS = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
# Kernel parameters of the ipc namespace, sysctl(2); the rest of `kernel.` is the whole machine's.
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in (
        "msgmax msgmnb msgmni msg_next_id sem sem_next_id shmall shmmax shmmni shm_next_id shm_rmid_forced".split()
    )
)
_SYSCTL = pattern(r"[a-z0-9_]+(?:\.[A-Za-z0-9_-]+)+", re.ASCII)


def sysctl_name(name: str) -> str:
    """The name of a kernel parameter that belongs to namespaces; raises UsageError for the machine's own."""
    if not _SYSCTL.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} is no kernel parameter.", hint="For example net.core.somaxconn=1024."
        )
    if name in ("kernel.hostname", "kernel.domainname"):
        raise UsageError(f"{name} is not set by --sysctl.", hint="The host name is set by --hostname.")
    if sysctl_owner(name) is None:
        raise UsageError(
            f"{name} is a setting of the whole machine, which no container may change.",
            hint="net.*, fs.mqueue.*, user.* and System V IPC's kernel.* belong to containers.",
        )
    return name


def sysctl_owner(name: str) -> str | None:
    """The namespace that a kernel parameter belongs to; None for one of the machine."""
    if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
        return "ipc"
    return {"net": "net", "user": "userns"}.get(name.partition(".")[0])


def parse_ulimit(text: str) -> tuple[str, str]:
    """`--ulimit`: NAME=SOFT[:HARD] as (name, SOFT:HARD); raises UsageError."""
    name, _, value = text.partition("=")
    return ulimit_name(name), ulimit_value(value, name)


def ulimit_name(name: str) -> str:
    """A resource limit's name; raises UsageError."""
    if name not in ULIMITS:
        raise UsageError(f"{name[:40]!r} is no resource limit.", hint=f"There are {', '.join(ULIMITS)}.")
    return name


def ulimit_value(value: str, name: str) -> str:
    """SOFT:HARD, each a number or `infinity`; raises UsageError."""
    parts = ["infinity" if part in ("-1", "unlimited", "infinity") else part for part in value.split(":")]
    soft, hard = parts if len(parts) == 2 else (parts[0], parts[0])
    numbers = [
        1 << 64
        if part == "infinity"
        else int(part)
        if part.isascii() and part.isdigit() and len(part) < 20
        else -1
        for part in (soft, hard)
    ]
    if len(parts) > 2 or min(numbers) < 0 or numbers[0] > numbers[1]:
        raise UsageError(
            f"{value[:60]!r} is no value for the limit {name}.",
            hint="Write SOFT or SOFT:HARD, numbers or unlimited, for example nofile=1024:4096.",
        )
    return f"{soft}:{hard}"


def oom_score(value: Any) -> int:
    """-1000 (never killed) to 1000; raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not -1000 <= value <= 1000:
        raise UsageError(f"{value!r} is no OOM score adjustment.", hint="Give a number from -1000 to 1000.")
    return value


def shm_size(value: Any) -> int:
    """Bytes for /dev/shm; raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 62:
        raise UsageError(f"{value!r} bytes are no size for /dev/shm.", hint="For example 256m.")
    return value
