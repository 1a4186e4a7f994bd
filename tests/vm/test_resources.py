"""Each limit exceeded on purpose by a payload, and what the kernel counted then.

Rates are measured within one run, over a time that the kernel's own counters give.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from gearhost import GearHost

ROOT = "/sys/fs/cgroup/container.slice"
# Prints how fast a counter of a file moved, per second, while another one moved by a number.
RATE = b"""
import sys, time
path, key, clock_path, clock_key, steps = sys.argv[1:]
def read(path, key):
    for line in open(path):
        for word in line.replace("=", " ").split("\\n"):
            words = word.split()
            if key in words:
                return int(words[words.index(key) + 1])
    return 0
def look():
    return time.monotonic(), read(path, key), read(clock_path, clock_key)
first = now = look()
deadline = time.monotonic() + 120
while now[2] - first[2] < int(steps):
    assert time.monotonic() < deadline, now
    time.sleep(0.05)
    now = look()
print((now[1] - first[1]) / (now[0] - first[0]))
"""
BUSY = ("sh", "-c", "while :; do :; done & while :; do :; done")


@pytest.fixture(autouse=True)
def nothing_left(machine: GearHost) -> Iterator[None]:
    machine.write("/root/rate.py", RATE)
    yield
    names = machine.sh("ls /var/lib/gear/containers")
    if found := [name for name in names.split() if name.startswith("vres")]:
        machine.gear("delete", *found)
    if "container-vres1" in machine.sh("ls /var/lib/gear/slices 2>/dev/null || :"):
        machine.gear("slice", "rm", "container-vres1")


def group(name: str, inside: str = "") -> str:
    return f"{ROOT}{inside}/ctr-{name}.service"


def read(machine: GearHost, path: str) -> str:
    return machine.read(path).decode().strip()


def counted(machine: GearHost, path: str) -> dict[str, int]:
    """A file of keys and numbers, such as memory.events."""
    return {line.split()[0]: int(line.split()[1]) for line in read(machine, path).splitlines()}


def start(machine: GearHost, name: str, *options: str, command: tuple[str, ...]) -> None:
    # A shell hears no other signal while it is busy.
    general = ("--restart", "no", "--stop-signal", "KILL", "--net", "none")
    machine.gear("install", "hello", name, *general, *options, "--start", "--", *command)


def assert_held_to(machine: GearHost, directory: str, processors: float) -> None:
    """See that a busy group gets so many processors' worth of time, over 60 periods of its quota.

    On a machine that others keep busy it may get less, but not as little as with half of the quota.
    """
    stat = f"{directory}/cpu.stat"
    rate = machine.out("python3", "/root/rate.py", stat, "usage_usec", stat, "nr_periods", "60")
    share = float(rate) / 1e6 / processors
    print(f"{share:.3f} of {processors} processors")
    assert 0.55 < share < 1.05


def inspected(machine: GearHost, name: str) -> Any:
    return json.loads(machine.gear("inspect", name))[0]


def test_memory_and_processes(machine: GearHost) -> None:
    eater = ("sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; exec sleep 100000")
    memory = ("--memory", "32m", "--memory-swap-max", "0")
    start(machine, "vres-oom", *memory, "--oom-policy", "continue", command=eater)
    machine.wait(
        lambda: counted(machine, f"{group('vres-oom')}/memory.events")["oom_kill"], "the kernel to kill it"
    )
    assert counted(machine, f"{group('vres-oom')}/memory.events")["max"] > 0
    machine.gear("update", "vres-oom", "--oom-policy", "stop")
    machine.run("gear", "restart", "vres-oom", check=False)
    machine.wait(lambda: machine.show("ctr-vres-oom.service", "Result") == "oom-kill", "systemd to notice")
    (state,) = machine.json("status", "vres-oom")
    assert (state["active_state"], state["result"]) == ("failed", "oom-kill")

    # With nothing to give back it is slowed down, and not killed.
    high = ("--memory-high", "16m", "--memory-swap-max", "0")
    start(
        machine,
        "vres-high",
        *high,
        command=("sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=40; exec sleep 1d"),
    )
    machine.wait(lambda: counted(machine, f"{group('vres-high')}/memory.events")["high"] > 10, "throttling")
    assert counted(machine, f"{group('vres-high')}/memory.events")["oom_kill"] == 0

    bomb = ("sh", "-c", "(while :; do sleep 100000 & done); exec sleep 100000")
    start(machine, "vres-pids", "--pids-limit", "12", command=bomb)
    machine.wait(lambda: counted(machine, f"{group('vres-pids')}/pids.events")["max"], "the bomb to end")
    assert int(read(machine, f"{group('vres-pids')}/pids.current")) <= 12


def test_processor_time_changed_while_it_runs(machine: GearHost) -> None:
    start(machine, "vres-cpu", "--cpus", "0.5", "--cpuset-cpus", "1", command=BUSY)
    pid, directory = machine.pid("vres-cpu"), group("vres-cpu")
    assert "Cpus_allowed_list:\t1\n" in machine.read(f"/proc/{pid}/status").decode()
    assert_held_to(machine, directory, 0.5)
    assert counted(machine, f"{directory}/cpu.stat")["nr_throttled"] > 0

    machine.gear("update", "vres-cpu", "--cpus", "0.25", "--memory", "64m", "--cpu-weight", "30")
    limits = {"cpu.max": "25000 100000", "memory.max": str(64 << 20), "cpu.weight": "30"}
    assert {name: read(machine, f"{directory}/{name}") for name in limits} == limits
    assert_held_to(machine, directory, 0.25)
    machine.sh("systemctl daemon-reload")
    assert {name: read(machine, f"{directory}/{name}") for name in limits} == limits
    document = inspected(machine, "vres-cpu")
    assert {name: document["kernel"][name] for name in limits} == limits
    assert document["kernel"]["effective"]["cpu.max"] == 0.25
    assert not document["state"]["restart_needed"]
    assert machine.show("ctr-vres-cpu.service", "DropInPaths") == ""

    machine.gear("update", "vres-cpu", "--unset", "cpus", "--memory", "none", "--cpuset-cpus", "none")
    assert read(machine, f"{directory}/cpu.max").startswith("max ")
    assert read(machine, f"{directory}/memory.max") == "max"
    assert machine.pid("vres-cpu") == pid
    assert not machine.json("status", "vres-cpu")[0]["restart_needed"]


def test_device(machine: GearHost) -> None:
    writer = ("sh", "-c", "while :; do dd if=/dev/zero of=/x bs=1M count=4 conv=fsync; done")
    start(machine, "vres-io", "--device-write-bps", "/dev/vda:2m", "--user", "0", command=writer)
    directory = group("vres-io")
    assert "wbps=2097152" in read(machine, f"{directory}/io.max")
    stat = f"{directory}/io.stat"
    machine.wait(lambda: "wbytes" in read(machine, stat), "the first bytes")
    rate = float(machine.out("python3", "/root/rate.py", stat, "wbytes", stat, "wbytes", str(16 << 20)))
    assert 1 << 20 < rate < 1.1 * (2 << 20)
    pid = machine.pid("vres-io")
    machine.gear("update", "vres-io", "--unset", "device-write-bps=/dev/vda")
    # When nobody needs the controller any more, PID 1 switches it off.
    assert machine.sh(f"cat {directory}/io.max 2>/dev/null || :") == ""
    assert machine.pid("vres-io") == pid


def test_slice_limits_its_containers_together(machine: GearHost) -> None:
    machine.gear(
        "slice", "create", "container-vres1", "--cpus", "0.5", "--memory", "64m", "--memory-swap-max", "0"
    )
    for name in ("vres-a", "vres-b"):
        start(machine, name, "--slice", "container-vres1", command=BUSY)
    directory = f"{ROOT}/container-vres1.slice"
    assert_held_to(machine, directory, 0.5)
    assert inspected(machine, "vres-a")["kernel"]["effective"] == {
        "memory.max": 64 << 20, "memory.swap.max": 0, "cpu.max": 0.5, "pids.max": 2048,
    }  # fmt: skip
    assert "vres-a, vres-b" in machine.fails(1, "slice", "rm", "container-vres1")
    machine.gear("slice", "create", "container-vres1", "--cpus", "0.25")
    assert read(machine, f"{directory}/cpu.max") == "25000 100000"
    assert_held_to(machine, directory, 0.25)
    (listed,) = [row for row in machine.json("slice", "list") if row["name"] == "container-vres1.slice"]
    assert (listed["containers"], listed["used"]["memory"] > 0) == (["vres-a", "vres-b"], True)

    filler = ("sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=48; exec sleep 100000")
    machine.gear("delete", "vres-a", "vres-b")
    for name in ("vres-a", "vres-b"):
        own = ("--restart", "no", "--net", "none", "--slice", "container-vres1")
        machine.gear("install", "hello", name, *own, "--", *filler)
    machine.run("gear", "start", "vres-a", "vres-b", check=False)
    machine.wait(lambda: counted(machine, f"{directory}/memory.events")["oom_kill"], "both to be too much")
    assert int(read(machine, f"{directory}/memory.current")) <= 64 << 20


def test_huge_pages(machine: GearHost) -> None:
    machine.sh("sysctl -q vm.nr_hugepages=8")
    try:
        # Of four pages, two may be had.
        wants = (
            "import mmap, sys, time\n"
            "def have(size): return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)\n"
            "kept = have(4 << 20)\n"
            "kept.write(b'x')\n"
            "try: have(4 << 20)\n"
            "except OSError as error: print('refused', error.errno, flush=True)\n"
            "time.sleep(1e5)\n"
        )
        options = (
            "--hugepages",
            "2M:4m",
            "--net",
            "none",
            "--restart",
            "no",
            "--start",
            "--",
            "/usr/bin/python3",
            "-c",
            wants,
        )
        machine.gear("install", "host:/", "vres-huge", *options)
        machine.wait(lambda: "refused 12" in machine.gear("logs", "vres-huge"), "the kernel to refuse")
        assert read(machine, f"{group('vres-huge')}/hugetlb.2MB.max") == str(4 << 20)
        assert inspected(machine, "vres-huge")["kernel"]["hugetlb.2MB.max"] == str(4 << 20)
    finally:
        machine.sh("sysctl -q vm.nr_hugepages=0")
