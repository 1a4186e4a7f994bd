"""What a container or a slice may use of the machine: the member `resources` of spec.json, in systemd's words.

Only what was asked for; how it is said to systemd is in gear/limiting.py.  Docker's words for the same are options
(gear/cli_resources.py), and become these when they are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gear import members, records
from gear.errors import UsageError
from gear.patterns import pattern
from gear.records import dataclass
from gear.weights import weight_of_shares

# As a size: as much as there is, where that differs from nothing being said.
UNLIMITED = -1
# systemd.service(5), "OOMPolicy="; oomd.conf(5) and systemd.resource-control(5), "ManagedOOMMemoryPressure=".
OOM_POLICIES = ("continue", "stop", "kill")
PRESSURE_ACTIONS = ("auto", "kill")
# What the kernel has pages of, on some architecture (Documentation/admin-guide/mm/hugetlbpage.rst).
_PAGE = pattern(r"([1-9][0-9]{0,5})([KMG])B?", re.ASCII | re.IGNORECASE)
_SIZE = pattern(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([bkmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_LIST = pattern(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", re.ASCII)
_PATH = pattern(r"/[A-Za-z0-9_.:@+/-]{0,1000}", re.ASCII)
_FACTORS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOST = 1 << 62

# A number for each of some devices, or page sizes: (which, number).
Each = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Budget:
    """None, or nothing, is what systemd does by itself.  Sizes are bytes, rates bytes or operations a second."""

    cpu_weight: int | None = None  # 1 to 10000, where 100 is usual
    cpu_quota: float | None = None  # 1.0 is one processor's whole time
    cpu_period: int | None = None  # microseconds in which the quota counts
    cpus: str | None = None
    memory_nodes: str | None = None
    memory_min: int | None = None
    memory_low: int | None = None
    memory_high: int | None = None
    memory_max: int | None = None
    memory_swap_max: int | None = None  # of swap alone, or UNLIMITED
    memory_pressure: str | None = None
    memory_pressure_limit: int | None = None  # percent
    oom_policy: str | None = None
    tasks_max: int | None = None
    io_weight: int | None = None
    io_device_weight: Each = ()
    io_read_bandwidth_max: Each = ()
    io_write_bandwidth_max: Each = ()
    io_read_iops_max: Each = ()
    io_write_iops_max: Each = ()
    hugepages: Each = ()  # bytes by size of page, for example 2MB

    def to_mapping(self) -> dict[str, Any]:
        """The member of spec.json: what was asked for."""
        found = {item.name: getattr(self, item.name) for item in records.fields(self)}
        return {
            name: dict(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value not in (None, ())
        }

    @classmethod
    def read(cls, document: Any) -> Budget:
        """The budget in *document*; raises UsageError, TypeError or ValueError for what is wrong with it."""
        found = members.mapping(document)
        if unknown := sorted(set(found) - set(_READERS)):
            raise ValueError(f"no such member: {members.shown(unknown[0])}")
        return checked(cls(**{name: _READERS[name](value) for name, value in found.items()}))

    def words(self) -> list[str]:
        """What people are shown of it, as options would say it."""
        return [
            f"{option(name).removeprefix('--')} {_shown(name, value)}"
            for name, value in self.to_mapping().items()
        ]


_OPTIONS = {
    "cpu_quota": "--cpus",
    "cpus": "--cpuset-cpus",
    "memory_nodes": "--cpuset-mems",
    "memory_max": "--memory",
    "tasks_max": "--pids-limit",
    "io_read_bandwidth_max": "--device-read-bps",
    "io_write_bandwidth_max": "--device-write-bps",
    "io_read_iops_max": "--device-read-iops",
    "io_write_iops_max": "--device-write-iops",
}
_SIZES = ("memory_min", "memory_low", "memory_high", "memory_max", "memory_swap_max")


def _shown(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}:{number}" for key, number in value.items())
    if name in _SIZES:
        return shown_size(value)
    return str(value)


def shown_size(size: int) -> str:
    """Bytes as parse_size() reads them."""
    if size == UNLIMITED:
        return "infinity"
    for letter, factor in reversed(_FACTORS.items()):
        if size >= factor and size % factor == 0 and letter not in ("", "b"):
            return f"{size // factor}{letter}"
    return str(size)


def checked(budget: Budget) -> Budget:
    """*budget* if its parts go together; raises UsageError."""
    order = ("memory_min", "memory_low", "memory_high", "memory_max")
    given = [(name, value) for name in order if (value := getattr(budget, name)) is not None]
    for (lower, small), (upper, large) in zip(given, given[1:], strict=False):
        if small > large:
            raise UsageError(
                f"{option(lower)} can't be more than {option(upper)}: "
                f"{shown_size(small)} is, beside {shown_size(large)}."
            )
    if budget.cpu_period is not None and budget.cpu_quota is None:
        raise UsageError("A period of processor time takes a quota.", hint="Add --cpus or --cpu-quota.")
    if budget.memory_pressure_limit is not None and budget.memory_pressure != "kill":
        raise UsageError(
            "A limit of memory pressure means something with --memory-pressure kill only.",
            hint="Add --memory-pressure kill.",
        )
    return budget


def option(member: str) -> str:
    """The option that people know a member of a budget by."""
    return _OPTIONS.get(member) or f"--{member.replace('_', '-')}"


def of_version_0(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a budget for the members that spec.json had before there were budgets; raises UsageError."""
    found = {_FLAT[name]: flat[name] for name in _FLAT if flat.get(name) is not None}
    if (shares := flat.get("cpu_shares")) is not None:
        found["cpu_weight"] = weight_of_shares(cpu_shares(shares))
    if (swap := flat.get("memory_swap")) is not None:
        found["memory_swap_max"] = swap_alone(swap_limit(swap), found.get("memory_max"))
    return found


def swap_alone(both: int, memory: Any) -> int:
    """How much swap is left by Docker's limit of memory and swap together; raises UsageError."""
    if both == UNLIMITED:
        return UNLIMITED
    if not isinstance(memory, int) or memory > both:
        raise UsageError(
            f"{shown_size(both)} of memory and swap can't be: that includes memory.",
            hint="Give --memory as well, and --memory-swap not less than it; the same for no swap.",
        )
    return both - memory


_FLAT = {
    "memory": "memory_max",
    "cpus": "cpu_quota",
    "pids_limit": "tasks_max",
    "cpuset_cpus": "cpus",
}
FLAT_MEMBERS = (*_FLAT, "cpu_shares", "memory_swap")


def parse_size(text: str) -> int:
    """A number of bytes with Docker's suffixes b, k, m, g, t (powers of 1024); raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if not match or (size := int(float(match[1]) * _FACTORS[match[2].lower()])) <= 0:
        raise UsageError(f"{text!r} is no size.", hint="Write for example 512m or 2g.")
    return size


def memory_limit(value: Any) -> int:
    """Bytes of memory, at least 1 MiB: below that no process starts; raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 << 20 <= value < _MOST:
        raise UsageError(f"A memory limit of {value!r} bytes can't work.", hint="Give at least 1m.")
    return value


def memory_protection(value: Any) -> int:
    """Bytes of memory that are left to it when others want some; raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
        raise UsageError(f"{value!r} bytes of memory can't be kept for anybody.", hint="For example 64m.")
    return value


def swap_limit(value: Any) -> int:
    """Bytes of memory and swap together, or UNLIMITED; raises UsageError."""
    if value != UNLIMITED and (
        isinstance(value, bool) or not isinstance(value, int) or not 1 << 20 <= value < _MOST
    ):
        raise UsageError(
            f"A limit of {value!r} bytes of memory and swap can't work.", hint="Give at least 1m, or -1."
        )
    return int(value)


def swap_max(value: Any) -> int:
    """Bytes of swap, from 0, or UNLIMITED; raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not UNLIMITED <= value < _MOST:
        raise UsageError(f"{value!r} bytes are no limit of swap.", hint="For example 512m, 0 or -1.")
    return value


def cpu_limit(value: Any) -> float:
    """Processors' worth of time, 0.01 to 8192; raises UsageError."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not 0.01 <= number <= 8192:
        raise UsageError(f"{value!r} is no number of processors.", hint="Write for example 0.5 or 2.")
    return number


def _whole(what: str, least: int, most: int) -> Callable[[Any], int]:
    """A check for a whole number from *least* to *most*, which raises UsageError for any other."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UsageError(f"{value!r} is no {what}.", hint=f"Give a number from {least} to {most}.")
        return value

    return check


pids_limit = _whole("limit of processes", 1, 4194304)
# Docker's weights, where 1024 and 500 are usual.
cpu_shares = _whole("share of processor time", 2, 262144)
block_weight = _whole("weight for block devices", 10, 1000)
weight = _whole("weight", 1, 10000)
# Microseconds; those of the kernel's bounds (kernel/sched/core.c).
cpu_period = _whole("period of processor time", 1000, 1_000_000)
cpu_quota = _whole("quota of processor time", 1000, _MOST)
percent = _whole("percentage", 1, 100)
rate = _whole("rate", 1, _MOST)
page_limit = _whole("amount of huge pages", 0, _MOST)


def number_list(text: str, what: str = "processors") -> str:
    """A list of processors such as 0-3,7; raises UsageError."""
    ranges = [part.split("-") for part in text.split(",")] if _LIST.fullmatch(text) else []
    if not ranges or any(not int(part[0]) <= int(part[-1]) < 8192 for part in ranges):
        raise UsageError(f"{text[:80]!r} is no list of {what}.", hint="For example 0-3,7.")
    return text


def device_path(text: str) -> str:
    """A device node, or a file or directory on the file system whose device is meant; raises UsageError."""
    # Nothing that has a meaning in unit files.
    if not _PATH.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} names no device.", hint="Give the absolute path of a device, such as /dev/sda."
        )
    return text


def page_size(text: str) -> str:
    """A size of huge pages as the kernel writes it, for example 2MB; raises UsageError."""
    match = _PAGE.fullmatch(text)
    if not match:
        raise UsageError(f"{text[:40]!r} is no size of huge pages.", hint="For example 2M or 1G.")
    return f"{match[1]}{match[2].upper()}B"


def one_of(text: str, words: tuple[str, ...], what: str) -> str:
    """*text* if it is one of *words*; raises UsageError."""
    if text not in words:
        raise UsageError(f"{text[:40]!r} is no {what}.", hint=f"There are {', '.join(words)}.")
    return text


def _each(key: Callable[[str], str], check: Callable[[Any], int]) -> members.Reader:
    return lambda value: tuple((key(name), check(number)) for name, number in members.mapping(value).items())


def _text(check: Callable[[str], str]) -> members.Reader:
    return lambda value: check(members.text(value))


_READERS: dict[str, members.Reader] = {
    "cpu_weight": weight,
    "cpu_quota": lambda value: cpu_limit(members.number(value)),
    "cpu_period": cpu_period,
    "cpus": _text(number_list),
    "memory_nodes": _text(lambda text: number_list(text, "memory nodes")),
    "memory_min": memory_protection,
    "memory_low": memory_protection,
    "memory_high": memory_limit,
    "memory_max": memory_limit,
    "memory_swap_max": swap_max,
    "memory_pressure": _text(lambda text: one_of(text, PRESSURE_ACTIONS, "answer to memory pressure")),
    "memory_pressure_limit": percent,
    "oom_policy": _text(lambda text: one_of(text, OOM_POLICIES, "OOM policy")),
    "tasks_max": pids_limit,
    "io_weight": weight,
    "io_device_weight": _each(device_path, weight),
    **{
        f"io_{way}_{what}_max": _each(device_path, rate)
        for what in ("bandwidth", "iops")
        for way in ("read", "write")
    },
    "hugepages": _each(page_size, page_limit),
}
