"""System calls on processes that few containers ask for, so that the usual start does not even load them.

Not for policy; see gear/helper/syscalls.py, which has those that every start needs.
"""

from __future__ import annotations

import posix as os

from gear.helper.failure import Failure
from gear.helper.syscalls import _call, _u32, _u64

_MACHINE = os.uname().machine
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}.get(_MACHINE)
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(_MACHINE)
_PRLIMIT = {"x86_64": 302, "aarch64": 261}.get(_MACHINE)
_PERSONALITY = {"x86_64": 135, "aarch64": 92}.get(_MACHINE)
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}.get(_MACHINE)
_SETDOMAINNAME = {"x86_64": 171, "aarch64": 162}.get(_MACHINE)

# asm-generic/resource.h
_RLIMITS = (
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"
).split()
# linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
# linux/ioprio.h
_IO_CLASSES = {"IOPRIO_CLASS_NONE": 0, "IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
# linux/personality.h
_PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
# linux/mempolicy.h
_MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
_MEMORY_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_UNLIMITED = (1 << 64) - 1


def _number(table: dict[str, int], name: str, what: str) -> int:
    if name not in table:
        raise Failure(f"can't start: there is no {what} {name}")
    return table[name]


def set_rlimits(pid: int, rlimits: list) -> int:  # type: ignore[type-arg]
    """prlimit(2) for each entry of `process.rlimits`; 0 is the calling process.  Returns how many there are."""
    for rlimit in rlimits:
        name = rlimit["type"].removeprefix("RLIMIT_")
        if name not in _RLIMITS:
            raise Failure(f"can't start: there is no resource limit {rlimit['type']}")
        limits = _u64(rlimit["soft"] & _UNLIMITED, rlimit["hard"] & _UNLIMITED)
        _call(f"prlimit {name}", _PRLIMIT, pid, _RLIMITS.index(name), limits, None)
    return len(rlimits)


def set_scheduler(pid: int, scheduler: dict) -> None:  # type: ignore[type-arg]
    """sched_setattr(2) as `process.scheduler` says."""
    flags = 0
    for name in scheduler.get("flags", ()):
        flags |= _number(_SCHED_FLAGS, name, "scheduler flag")
    policy = _number(_POLICIES, scheduler["policy"], "scheduling policy")
    # struct sched_attr, linux/sched/types.h, up to and with sched_period.
    attributes = (
        _u32(48, policy)
        + _u64(flags)
        + _u32(scheduler.get("nice", 0) & 0xFFFFFFFF, scheduler.get("priority", 0))
        + _u64(scheduler.get("runtime", 0), scheduler.get("deadline", 0), scheduler.get("period", 0))
    )
    _call("sched_setattr", _SCHED_SETATTR, pid, attributes, 0)


def set_io_priority(pid: int, priority: dict) -> None:  # type: ignore[type-arg]
    """ioprio_set(2) as `process.ioPriority` says."""
    kind = _number(_IO_CLASSES, priority["class"], "I/O scheduling class")
    _call("ioprio_set", _IOPRIO_SET, 1, pid, kind << 13 | priority.get("priority", 0))


def set_affinity(pid: int, cpus: str) -> None:
    """sched_setaffinity(2) with a list such as `0-3,7`, as `process.execCPUAffinity` has them."""
    numbers: set[int] = set()
    for part in cpus.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise Failure(f"can't start: {cpus!r} is no list of processors")
        numbers.update(range(int(first), int(last or first) + 1))
    os.sched_setaffinity(pid, numbers)


def set_personality(personality: dict) -> None:  # type: ignore[type-arg]
    """personality(2) as `linux.personality` says."""
    if personality.get("flags"):
        raise Failure("can't start: linux.personality.flags are not supported by the specification yet")
    _call("personality", _PERSONALITY, _number(_PERSONALITIES, personality["domain"], "personality"))


def set_memory_policy(policy: dict) -> None:  # type: ignore[type-arg]
    """set_mempolicy(2) as `linux.memoryPolicy` says."""
    mode = _number(_MEMORY_MODES, policy["mode"], "memory policy")
    for name in policy.get("flags", ()):
        mode |= _number(_MEMORY_FLAGS, name, "memory policy flag")
    mask = 0
    for part in policy.get("nodes", "").split(","):
        first, _, last = part.strip().partition("-")
        if first:
            for node in range(int(first), int(last or first) + 1):
                mask |= 1 << node
    words = _u64(*[mask >> 64 * number & (1 << 64) - 1 for number in range(16)])
    _call("set_mempolicy", _SET_MEMPOLICY, mode, words if mask else None, 1024 if mask else 0)


def set_domain_name(name: str) -> None:
    """setdomainname(2)."""
    encoded = name.encode("utf-8", "surrogateescape")
    _call("setdomainname", _SETDOMAINNAME, encoded, len(encoded))


def set_time_offsets(offsets: dict) -> None:  # type: ignore[type-arg]
    """Write the offsets of a new time namespace, before anybody is in it (time_namespaces(7))."""
    lines = "".join(
        f"{clock} {value.get('secs', 0)} {value.get('nanosecs', 0)}\n" for clock, value in offsets.items()
    )
    file = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
    os.write(file, lines.encode())
    os.close(file)
