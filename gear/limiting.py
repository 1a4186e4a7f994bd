"""A budget (gear/budget.py) as systemd's properties: lines of units, and properties over D-Bus.

Pure.  What OCI calls resources is in gear/resources.py, which has the form of a property that is used here.
"""

from __future__ import annotations

from typing import Any

from gear.budget import UNLIMITED, Budget
from gear.resources import INFINITY, Setting, number_mask, plain, quota

# The kernel's default period of cpu.max, in microseconds; systemd's as well.
_PERIOD = 100_000
_PLAIN = {
    "tasks_max": "TasksMax",
    "memory_min": "MemoryMin",
    "memory_low": "MemoryLow",
    "memory_high": "MemoryHigh",
    "memory_max": "MemoryMax",
    "memory_swap_max": "MemorySwapMax",
    "cpu_weight": "CPUWeight",
}
_MASKS = {"cpus": "AllowedCPUs", "memory_nodes": "AllowedMemoryNodes"}
_DEVICES = {
    "io_device_weight": "IODeviceWeight",
    "io_read_bandwidth_max": "IOReadBandwidthMax",
    "io_write_bandwidth_max": "IOWriteBandwidthMax",
    "io_read_iops_max": "IOReadIOPSMax",
    "io_write_iops_max": "IOWriteIOPSMax",
}
# What a slice has without being asked for; the same as those that come with gear (units/).
_ACCOUNTING = ("CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting")


def settings(budget: Budget) -> list[Setting]:
    """The properties of *budget*, in the order of units; huge pages have none (gear/helper/hugepages.py)."""
    found = [
        plain(name, INFINITY if value == UNLIMITED else value)
        for member, name in _PLAIN.items()
        if (value := getattr(budget, member)) is not None
    ]
    if budget.cpu_quota is not None:
        period = budget.cpu_period or _PERIOD
        found += quota(round(budget.cpu_quota * period), period)
    for member, name in _MASKS.items():
        if (text := getattr(budget, member)) is not None:
            found.append(Setting(name, number_mask(text), name, (text.replace(",", " "),)))
    if budget.io_weight is not None:
        found.append(plain("IOWeight", budget.io_weight))
    for member, name in _DEVICES.items():
        if each := getattr(budget, member):
            found.append(Setting(name, list(each), name, tuple(f"{path} {number}" for path, number in each)))
    if (action := budget.memory_pressure) is not None:
        found.append(Setting("ManagedOOMMemoryPressure", action, "ManagedOOMMemoryPressure", (action,)))
    if (limit := budget.memory_pressure_limit) is not None:
        # Over D-Bus a part of all that 32 bits can say.
        name = "ManagedOOMMemoryPressureLimit"
        found.append(Setting(name, limit * 0xFFFFFFFF // 100, name, (f"{limit}%",)))
    return found


def unit_lines(budget: Budget) -> list[tuple[str, str]]:
    """The lines of a section [Service] or [Slice]; what only services have is service_lines()."""
    return [(item.line, text) for item in settings(budget) for text in item.texts]


def service_lines(budget: Budget) -> list[tuple[str, str]]:
    """The lines that only a service has."""
    return [] if budget.oom_policy is None else [("OOMPolicy", budget.oom_policy)]


def slice_lines(budget: Budget) -> list[tuple[str, str]]:
    """The lines of the section [Slice] of a slice with *budget*."""
    return [(name, "yes") for name in _ACCOUNTING] + unit_lines(budget)


def properties(budget: Budget) -> list[tuple[str, Any]]:
    """The properties of a scope, for StartTransientUnit."""
    return [(item.name, item.value) for item in settings(budget)]
