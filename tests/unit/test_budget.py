"""Budgets: what becomes of them in units and over D-Bus, and how options change one that is there."""

from __future__ import annotations

import argparse

import pytest

from gear import cli_resources, limiting
from gear.budget import UNLIMITED, Budget, shown_size
from gear.errors import UsageError
from gear.systemd import _SIGNATURES

EVERYTHING = Budget(
    cpu_weight=50,
    cpu_quota=0.5,
    cpu_period=10000,
    cpus="0-1,3",
    memory_nodes="0",
    memory_min=1 << 20,
    memory_low=2 << 20,
    memory_high=3 << 20,
    memory_max=4 << 20,
    memory_swap_max=UNLIMITED,
    memory_pressure="kill",
    memory_pressure_limit=50,
    oom_policy="kill",
    tasks_max=9,
    io_weight=7,
    io_device_weight=(("/dev/sda", 8),),
    io_read_bandwidth_max=(("/dev/sda", 600),),
    io_write_bandwidth_max=(("/dev/sda", 601),),
    io_read_iops_max=(("/dev/sda", 602), ("/dev/sdb", 5)),
    io_write_iops_max=(("/dev/sda", 603),),
    hugepages=(("2MB", 4 << 20),),
)
LINES = """\
TasksMax=9
MemoryMin=1048576
MemoryLow=2097152
MemoryHigh=3145728
MemoryMax=4194304
MemorySwapMax=infinity
CPUWeight=50
CPUQuotaPeriodSec=10000us
CPUQuota=50%
AllowedCPUs=0-1 3
AllowedMemoryNodes=0
IOWeight=7
IODeviceWeight=/dev/sda 8
IOReadBandwidthMax=/dev/sda 600
IOWriteBandwidthMax=/dev/sda 601
IOReadIOPSMax=/dev/sda 602
IOReadIOPSMax=/dev/sdb 5
IOWriteIOPSMax=/dev/sda 603
ManagedOOMMemoryPressure=kill
ManagedOOMMemoryPressureLimit=50%"""


def test_every_knob_is_a_line_of_a_unit() -> None:
    assert "\n".join(f"{name}={text}" for name, text in limiting.unit_lines(EVERYTHING)) == LINES
    assert limiting.service_lines(EVERYTHING) == [("OOMPolicy", "kill")]
    assert limiting.unit_lines(Budget()) == limiting.service_lines(Budget()) == []
    assert limiting.slice_lines(Budget(tasks_max=3))[-2:] == [("TasksAccounting", "yes"), ("TasksMax", "3")]


def test_every_knob_is_a_property_with_a_type() -> None:
    found = dict(limiting.properties(EVERYTHING))
    assert set(found) <= set(_SIGNATURES)
    assert found["MemorySwapMax"] == (1 << 64) - 1
    assert found["AllowedCPUs"] == b"\x0b"
    assert found["CPUQuotaPerSecUSec"] == 500_000
    assert found["ManagedOOMMemoryPressureLimit"] == 0xFFFFFFFF // 2


def test_document_reads_back() -> None:
    assert Budget.read(EVERYTHING.to_mapping()) == EVERYTHING
    assert Budget().to_mapping() == {}


@pytest.mark.parametrize(
    ("size", "text"),
    [(UNLIMITED, "infinity"), (0, "0"), (5, "5"), (1024, "1k"), (3 << 29, "1536m"), (1 << 40, "1t")],
)
def test_sizes_are_shown_as_they_are_read(size: int, text: str) -> None:
    assert shown_size(size) == text


def changed(before: Budget, *words: str) -> Budget:
    parser = argparse.ArgumentParser()
    cli_resources.resource_options(parser)
    return cli_resources.budget_of(parser.parse_args(words), before)


@pytest.mark.parametrize(
    ("before", "words", "after"),
    [
        (EVERYTHING, (), EVERYTHING),
        (Budget(memory_max=9 << 20), ("--memory", "none"), Budget()),
        (
            Budget(memory_max=9 << 20),
            ("--memory-swap", "10m"),
            Budget(memory_max=9 << 20, memory_swap_max=1 << 20),
        ),
        (Budget(memory_swap_max=5), ("--memory-swap", "none"), Budget()),
        (Budget(cpu_quota=1.0, cpu_period=5000), ("--cpus", "none"), Budget()),
        (Budget(cpu_quota=1.0, cpu_period=5000), ("--cpu-quota=-1",), Budget()),
        (
            Budget(cpu_quota=1.0, cpu_period=5000),
            ("--cpu-quota", "2500"),
            Budget(cpu_quota=0.5, cpu_period=5000),
        ),
        (Budget(cpu_weight=5), ("--cpu-shares", "none"), Budget()),
        (
            Budget(io_read_iops_max=(("/dev/b", 2), ("/dev/c", 3))),
            ("--device-read-iops", "/dev/b:none", "--device-read-iops", "/dev/a:1"),
            Budget(io_read_iops_max=(("/dev/a", 1), ("/dev/c", 3))),
        ),
    ],
)
def test_options_change_what_they_name(before: Budget, words: tuple[str, ...], after: Budget) -> None:
    assert changed(before, *words) == after


def test_change_is_checked_with_what_is_there() -> None:
    with pytest.raises(UsageError, match="--memory-high can't be more than --memory: 9m is, beside 4m."):
        changed(Budget(memory_max=4 << 20), "--memory-high", "9m")
