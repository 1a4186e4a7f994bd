"""`linux.resources` as files of a control group, for groups that no systemd manages.

Pure: what to write, in which order.  The mapping to systemd's properties is in gear/resources.py.  Conversions of
version 1's numbers to version 2's are those that config-linux.md and the kernel's cgroup-v2.rst lead to.
"""

from __future__ import annotations

from gear.helper.failure import Failure
from gear.runtime.devices import DEFAULTS, normalise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_THROTTLES = (
    ("throttleReadBpsDevice", "read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "write_iops_device", "wiops"),
)


def device_rules(resources: dict[str, Any]) -> list[dict[str, Any]]:
    """The rules with what every container needs; none when config.json asks for no limits of devices."""
    rules = resources.get("devices") or []
    return [*rules, *DEFAULTS] if rules else []


def _limit(number: int) -> str:
    return "max" if number < 0 else str(number)


def version1(resources: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(controller, file, value) for the hierarchies of version 1."""
    if resources.get("unified"):
        raise Failure(
            "linux.resources.unified needs control groups of version 2, which this machine does not use"
        )
    writes = [*_memory1(resources.get("memory") or {}), *_cpu1(resources.get("cpu") or {})]
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        writes.append(("pids", "pids.max", _limit(pids)))
    writes += _block1(resources.get("blockIO") or {})
    for page in resources.get("hugepageLimits") or ():
        writes.append(("hugetlb", f"hugetlb.{_word(page['pageSize'])}.limit_in_bytes", str(page["limit"])))
    network = resources.get("network") or {}
    if network.get("classID") is not None:
        writes.append(("net_cls", "net_cls.classid", str(network["classID"])))
    for entry in network.get("priorities") or ():
        writes.append(("net_prio", "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}"))
    writes += [("rdma", "rdma.max", value) for value in _rdma(resources)]
    for rule in device_rules(resources):
        allow, kind, major, minor, _ = normalise(rule)
        numbers = ":".join("*" if number is None else str(number) for number in (major, minor))
        text = f"{kind} {numbers} {rule.get('access') or 'rwm'}"
        writes.append(("devices", "devices.allow" if allow else "devices.deny", text))
    return writes


def _memory1(memory: dict[str, Any]) -> list[tuple[str, str, str]]:
    files = (
        ("limit", "memory.limit_in_bytes"), ("swap", "memory.memsw.limit_in_bytes"),
        ("reservation", "memory.soft_limit_in_bytes"), ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
        ("swappiness", "memory.swappiness"),
    )  # fmt: skip
    writes = [("memory", file, str(memory[key])) for key, file in files if memory.get(key) is not None]
    if memory.get("disableOOMKiller"):
        writes.append(("memory", "memory.oom_control", "1"))
    return writes


def _cpu1(cpu: dict[str, Any]) -> list[tuple[str, str, str]]:
    files = (
        ("shares", "cpu", "cpu.shares"), ("period", "cpu", "cpu.cfs_period_us"), ("quota", "cpu", "cpu.cfs_quota_us"),
        ("burst", "cpu", "cpu.cfs_burst_us"), ("realtimePeriod", "cpu", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu", "cpu.rt_runtime_us"), ("idle", "cpu", "cpu.idle"),
        ("cpus", "cpuset", "cpuset.cpus"), ("mems", "cpuset", "cpuset.mems"),
    )  # fmt: skip
    return [
        (group, file, str(cpu[key])) for key, group, file in files if cpu.get(key) not in (None, "", 0)
    ] + ([("cpu", "cpu.idle", "0")] if cpu.get("idle") == 0 else [])


def _block1(block: dict[str, Any]) -> list[tuple[str, str, str]]:
    writes = []
    if block.get("weight"):
        writes.append(("blkio", "blkio.bfq.weight|blkio.weight", str(block["weight"])))
    if block.get("leafWeight"):
        writes.append(("blkio", "blkio.leaf_weight", str(block["leafWeight"])))
    for entry in block.get("weightDevice") or ():
        device = f"{entry['major']}:{entry['minor']}"
        if entry.get("weight"):
            writes.append(
                ("blkio", "blkio.bfq.weight_device|blkio.weight_device", f"{device} {entry['weight']}")
            )
        if entry.get("leafWeight"):
            writes.append(("blkio", "blkio.leaf_weight_device", f"{device} {entry['leafWeight']}"))
    for key, file, _ in _THROTTLES:
        for entry in block.get(key) or ():
            writes.append(
                ("blkio", f"blkio.throttle.{file}", f"{entry['major']}:{entry['minor']} {entry['rate']}")
            )
    return writes


def version2(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """(file, value) for the unified hierarchy; devices are a program there (gear/runtime/devices.py)."""
    writes = [*_memory2(resources.get("memory") or {}), *_cpu2(resources.get("cpu") or {})]
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        writes.append(("pids.max", _limit(pids)))
    writes += _block2(resources.get("blockIO") or {})
    for page in resources.get("hugepageLimits") or ():
        writes.append((f"hugetlb.{_word(page['pageSize'])}.max", str(page["limit"])))
    writes += [("rdma.max", value) for value in _rdma(resources)]
    for file, value in (resources.get("unified") or {}).items():
        # One file can take several lines, each written by itself (rdma.max, io.max).
        writes += [(_word(file), line) for line in str(value).split("\n") if line]
    return writes


def _memory2(memory: dict[str, Any]) -> list[tuple[str, str]]:
    writes = []
    limit, swap = memory.get("limit"), memory.get("swap")
    if swap == 0:  # what is no sum that any limit of memory could be in: no swap at all
        writes.append(("memory.swap.max", "0"))
    elif swap is not None:
        # The specification's swap is memory and swap together, the file's is swap alone.
        if swap > 0 and (limit is None or limit < 0):
            raise Failure("linux.resources.memory.swap needs a limit of memory: it counts both together")
        if swap > 0 and swap < (limit or 0):
            raise Failure(
                "linux.resources.memory.swap is less than the limit of memory, and it counts both together"
            )
        writes.append(("memory.swap.max", "max" if swap < 0 else str(swap - (limit or 0))))
    if limit:
        writes.append(("memory.max", _limit(limit)))
    if memory.get("reservation") is not None:
        writes.append(("memory.low", _limit(memory["reservation"])))
    return writes


def _cpu2(cpu: dict[str, Any]) -> list[tuple[str, str]]:
    writes = []
    if cpu.get("shares"):
        writes.append(("cpu.weight", str(weight_of_shares(cpu["shares"]))))
    if cpu.get("quota") or cpu.get("period"):
        quota = cpu.get("quota") or -1
        writes.append(("cpu.max", f"{_limit(quota)} {cpu.get('period') or 100000}"))
    for key, file in (("burst", "cpu.max.burst"), ("idle", "cpu.idle")):
        if cpu.get(key) is not None:
            writes.append((file, str(cpu[key])))
    for key in ("cpus", "mems"):
        if cpu.get(key):
            writes.append((f"cpuset.{key}", cpu[key]))
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        raise Failure("linux.resources.cpu.realtimeRuntime and realtimePeriod do not exist in version 2")
    return writes


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1 to 10000) for cpu.shares (2 to 262144): the curve of gear/resources.py, which says why; that
    module takes longer to import than a container to start."""
    from math import ceil, log2

    logarithm = log2(min(max(shares, 2), 262144))
    exponent = (logarithm * logarithm + 125 * logarithm) / 612 - 7 / 34
    return ceil(round(10**exponent, 6))


def _block2(block: dict[str, Any]) -> list[tuple[str, str]]:
    writes = []
    if block.get("weight"):
        # 10 to 1000 there, 1 to 10000 here; the scheduler bfq has its own file and its range is 1 to 1000.
        writes.append(("io.bfq.weight|io.weight", f"{block['weight']}|{_io_weight(block['weight'])}"))
    for entry in block.get("weightDevice") or ():
        if entry.get("weight"):
            writes.append(("io.bfq.weight", f"{entry['major']}:{entry['minor']} {entry['weight']}"))
    for key, _, word in _THROTTLES:
        for entry in block.get(key) or ():
            writes.append(("io.max", f"{entry['major']}:{entry['minor']} {word}={entry['rate']}"))
    return writes


def _io_weight(weight: int) -> int:
    return 1 + (min(max(weight, 10), 1000) - 10) * 9999 // 990


def _rdma(resources: dict[str, Any]) -> list[str]:
    lines = []
    for device, limits in (resources.get("rdma") or {}).items():
        words = [f"{file}={limits[key]}" for key, file in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
                 if limits.get(key) is not None]  # fmt: skip
        lines.append(" ".join([_word(device), *words]))
    return lines


def _word(name: object) -> str:
    """A part of a file name: never one that leads elsewhere."""
    text = str(name)
    if not text or "/" in text or "\0" in text or text in (".", "..") or text.startswith("cgroup."):
        raise Failure(f"linux.resources can't name the file {text}")
    return text
