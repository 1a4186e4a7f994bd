"""systemd takes what gear/resources.py says, with the types it says, in units and over D-Bus."""

from __future__ import annotations

from typing import Any

from gearhost import GearHost

from gear import device_rules, resources

EVERYTHING: dict[str, Any] = {
    "pids": {"limit": 0},
    "memory": {"limit": 1 << 30, "swap": 3 << 30, "reservation": 1 << 20},
    "cpu": {"shares": 512, "quota": 5000, "period": 10000, "cpus": "0", "mems": "0"},
    "blockIO": {
        "weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 500}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 7}],
    },
    "unified": {"memory.high": "max", "memory.min": "4096"},
    "devices": [
        device_rules.NOTHING,
        *device_rules.STANDARD,
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "access": "m"},
    ],
}
# As `systemctl show` prints them.
SHOWN = {
    "TasksMax": "1",
    "MemoryMax": str(1 << 30),
    "MemorySwapMax": str(2 << 30),
    "MemoryLow": str(1 << 20),
    "MemoryHigh": "infinity",
    "MemoryMin": "4096",
    "CPUWeight": "59",
    "CPUQuotaPerSecUSec": "500ms",
    "CPUQuotaPeriodUSec": "10ms",
    "AllowedCPUs": "0",
    "AllowedMemoryNodes": "0",
    "IOWeight": "4950",
    "IODeviceWeight": "/dev/block/8:0 4950",
    "IOReadBandwidthMax": "/dev/block/8:0 600",
    "IOWriteIOPSMax": "/dev/block/8:16 7",
    "DevicePolicy": "closed",
}
DEVICES = {"/dev/tty rw", "/dev/ptmx rw", "char-pts rw", "/dev/char/10:229 rw", "block-* m"}


def shown(host: GearHost, unit: str) -> dict[str, str]:
    """The properties of *unit* that are looked at, and that its devices are those that were given."""
    lines = [line.partition("=") for line in host.out("systemctl", "show", unit).splitlines()]
    assert {value for name, _, value in lines if name == "DeviceAllow"} == DEVICES
    return {name: value for name, _, value in lines if name in SHOWN}


def words(kind: str, value: Any) -> list[str]:
    """A value in the words of busctl(1)."""
    if kind == "ay":
        return [str(len(value)), *map(str, value)]
    if kind.startswith("a("):
        return [str(len(value)), *(str(item) for pair in value for item in pair)]
    return [str(value)]


def test_units(host: GearHost) -> None:
    lines = "".join(f"{name}={text}\n" for name, text in resources.unit_lines(EVERYTHING))
    host.write("/run/systemd/system/res.service", f"[Service]\nExecStart=/bin/true\n{lines}".encode())
    host.sh('systemctl daemon-reload; test -z "$(systemd-analyze verify res.service 2>&1)"')
    assert shown(host, "res.service") == SHOWN
    host.sh("rm /run/systemd/system/res.service; systemctl daemon-reload")


def test_transient_units(host: GearHost) -> None:
    properties = resources.properties(EVERYTHING)
    arguments = ["ExecStart", "a(sasb)", "1", "/bin/sleep", "2", "sleep", "1000", "false"]
    for name, value in properties:
        kind = resources.signature(name)
        arguments += [name, kind, *words(kind, value)]
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    start = ("StartTransientUnit", "ssa(sv)a(sa(sv))", "res-transient.service", "replace")
    host.run("busctl", "call", *manager, *start, str(len(properties) + 1), *arguments, "0")
    try:
        assert shown(host, "res-transient.service") == SHOWN
        # What systemd wrote down of it reads back the same.
        host.sh("systemctl daemon-reload")
        assert shown(host, "res-transient.service") == SHOWN
    finally:
        host.sh("systemctl stop res-transient.service")
