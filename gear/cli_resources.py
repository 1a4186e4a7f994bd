"""The options that say what a container or a slice may use, and what they mean: gear/budget.py's words, and Docker's.

Part of those of gear/cli_spec.py.  Each option takes NONE for nothing of the kind, which is how a limit is taken away.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gear import budget, records
from gear.budget import Budget
from gear.errors import UsageError
from gear.weights import io_weight, weight_of_shares

NONE = "none"


def resource_options(parser: argparse.ArgumentParser, *, of_slice: bool = False) -> None:
    add = parser.add_argument
    add("-m", "--memory", "--memory-max", metavar="SIZE", help="the most memory it may use, for example 512m")
    add("--memory-high", metavar="SIZE", help="above this it is slowed down and gives memory back")
    add(
        "--memory-low",
        "--memory-reservation",
        metavar="SIZE",
        help="so much is left to it as long as others can give",
    )
    add("--memory-min", metavar="SIZE", help="so much is left to it whatever happens")
    add("--memory-swap", metavar="SIZE", help="the most memory and swap together; -1 for no limit of swap")
    add("--memory-swap-max", metavar="SIZE", help="the most swap; 0 for none of it")
    add(
        "--memory-swappiness",
        metavar="NUMBER",
        help="refused: control groups of version 2 have no such thing",
    )
    add(
        "--memory-pressure",
        metavar="ACTION",
        help="whether systemd-oomd may end it when it stalls: auto, kill",
    )
    add("--memory-pressure-limit", metavar="PERCENT", help="how much of the time it may stall, with kill")
    if not of_slice:
        add("--oom-policy", metavar="POLICY", help="when one of it runs out of memory: continue, stop, kill")
    add("--cpus", metavar="NUMBER", help="the most processor time it may use, for example 0.5")
    add("--cpu-quota", metavar="TIME", help="the same in microseconds of each period")
    add("--cpu-period", metavar="TIME", help="microseconds in which its quota counts (100000)")
    add(
        "--cpu-weight", metavar="NUMBER", help="its weight when processors are busy, 1 to 10000; 100 is usual"
    )
    add("--cpu-shares", metavar="NUMBER", help="its weight when processors are busy; 1024 is usual")
    add("--cpuset-cpus", metavar="LIST", help="the processors it may use, for example 0-3,7")
    add("--cpuset-mems", metavar="LIST", help="the memory nodes it may use")
    add(
        "--pids-limit",
        "--tasks-max",
        metavar="NUMBER",
        help="the most processes and threads it may have (2048)",
    )
    add("--io-weight", metavar="NUMBER", help="its weight when devices are busy, 1 to 10000; 100 is usual")
    add("--blkio-weight", metavar="NUMBER", help="the same in Docker's words, 10 to 1000; 500 is usual")

    def each(name: str, form: str, help: str) -> None:
        add(name, metavar=form, action="append", default=[], help=help)

    each("--io-device-weight", "DEVICE:NUMBER", "its weight at one device, 1 to 10000")
    each("--blkio-weight-device", "DEVICE:NUMBER", "the same in Docker's words, 10 to 1000")
    for way in ("read", "write"):
        each(
            f"--device-{way}-bps", "DEVICE:SIZE", f"the most bytes a second that it may {way}, for example 1m"
        )
        each(f"--device-{way}-iops", "DEVICE:NUMBER", f"the most times a second that it may {way}")
    if not of_slice:
        each("--hugepages", "PAGE:SIZE", "the most memory in huge pages of one size, for example 2M:64m")


def budget_of(args: argparse.Namespace, before: Budget = Budget()) -> Budget:  # noqa: B008 (it is frozen)
    """*before* with what a command line says; raises UsageError."""
    if args.memory_swappiness is not None:
        raise UsageError(
            "--memory-swappiness is no limit of control groups of version 2: the kernel swaps all of them alike.",
            hint="--memory-swap-max 0 keeps it from being swapped.",
        )
    changes: dict[str, Any] = {}
    for option, member, read in _PLAIN:
        text = getattr(args, option, None)
        if text is not None:
            changes[member] = None if text == NONE else read(text)
    changes |= _quota(args, before, changes)
    if args.memory_swap is not None:
        memory = changes.get("memory_max", before.memory_max)
        if args.memory_swap == NONE:
            changes["memory_swap_max"] = None
        else:
            changes["memory_swap_max"] = budget.swap_alone(_both(args.memory_swap), memory)
    for option, member, key, read in _EACH:
        if words := getattr(args, option, None):
            had = changes.get(member, getattr(before, member))
            changes[member] = _merged(had, words, key, read, option)
    return budget.checked(records.replace(before, **changes))


def _quota(args: argparse.Namespace, before: Budget, changes: dict[str, Any]) -> dict[str, Any]:
    """Docker's quota, which is a part of its period."""
    if args.cpu_quota is None:
        if changes.get("cpu_quota", before.cpu_quota) is None and args.cpu_period is None:
            return {"cpu_period": None}
        return {}
    if args.cpu_quota in (NONE, "-1"):
        return {"cpu_quota": None, "cpu_period": None}
    if args.cpus is not None:
        raise UsageError("--cpus and --cpu-quota say the same, so only one of them can be given.")
    period = changes.get("cpu_period", before.cpu_period) or 100_000
    return {"cpu_quota": budget.cpu_limit(budget.cpu_quota(_number(args.cpu_quota)) / period)}


def _merged(
    had: budget.Each, words: list[str], key: Callable[[str], str], read: Callable[[str], int], option: str
) -> budget.Each:
    """*had* with what *words* say of some devices, or sizes of pages."""
    found = dict(had)
    for word in words:
        which, separator, text = word.rpartition(":")
        if not separator:
            raise UsageError(
                f"{word[:80]!r} limits nothing.", hint=f"Write --{option.replace('_', '-')} WHICH:LIMIT."
            )
        if text == NONE:
            found.pop(key(which), None)
        else:
            found[key(which)] = read(text)
    return tuple(sorted(found.items()))


def _both(text: str) -> int:
    return -1 if text in ("-1", "unlimited") else budget.swap_limit(budget.parse_size(text))


def _swap(text: str) -> int:
    if text in ("-1", "unlimited", "infinity"):
        return budget.UNLIMITED
    return 0 if text == "0" else budget.swap_max(budget.parse_size(text))


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text


def _counted(check: Callable[[Any], int]) -> Callable[[str], int]:
    return lambda text: check(_number(text))


def _sized(check: Callable[[Any], int]) -> Callable[[str], int]:
    return lambda text: check(budget.parse_size(text))


def _bytes(text: str) -> int:
    return budget.rate(budget.parse_size(text))


_Reader = Callable[[str], Any]
# Option, member of a budget, and how the one is read as the other; where two say the same, the later one counts.
_PLAIN: tuple[tuple[str, str, _Reader], ...] = (
    ("memory", "memory_max", _sized(budget.memory_limit)),
    ("memory_high", "memory_high", _sized(budget.memory_limit)),
    ("memory_low", "memory_low", _sized(budget.memory_protection)),
    ("memory_min", "memory_min", _sized(budget.memory_protection)),
    ("memory_swap_max", "memory_swap_max", _swap),
    (
        "memory_pressure",
        "memory_pressure",
        lambda text: budget.one_of(text, budget.PRESSURE_ACTIONS, "answer to memory pressure"),
    ),
    (
        "memory_pressure_limit",
        "memory_pressure_limit",
        lambda text: budget.percent(_number(text.removesuffix("%"))),
    ),
    ("oom_policy", "oom_policy", lambda text: budget.one_of(text, budget.OOM_POLICIES, "OOM policy")),
    ("cpus", "cpu_quota", budget.cpu_limit),
    ("cpu_period", "cpu_period", _counted(budget.cpu_period)),
    ("cpu_shares", "cpu_weight", lambda text: weight_of_shares(budget.cpu_shares(_number(text)))),
    ("cpu_weight", "cpu_weight", _counted(budget.weight)),
    ("cpuset_cpus", "cpus", budget.number_list),
    ("cpuset_mems", "memory_nodes", lambda text: budget.number_list(text, "memory nodes")),
    ("pids_limit", "tasks_max", _counted(budget.pids_limit)),
    ("blkio_weight", "io_weight", lambda text: io_weight(budget.block_weight(_number(text)))),
    ("io_weight", "io_weight", _counted(budget.weight)),
)
_EACH: tuple[tuple[str, str, _Reader, _Reader], ...] = (
    (
        "blkio_weight_device",
        "io_device_weight",
        budget.device_path,
        lambda text: io_weight(budget.block_weight(_number(text))),
    ),
    ("io_device_weight", "io_device_weight", budget.device_path, _counted(budget.weight)),
    ("device_read_bps", "io_read_bandwidth_max", budget.device_path, _bytes),
    ("device_write_bps", "io_write_bandwidth_max", budget.device_path, _bytes),
    ("device_read_iops", "io_read_iops_max", budget.device_path, _counted(budget.rate)),
    ("device_write_iops", "io_write_iops_max", budget.device_path, _counted(budget.rate)),
    ("hugepages", "hugepages", budget.page_size, _sized(budget.page_limit)),
)
