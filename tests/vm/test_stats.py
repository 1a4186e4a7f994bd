"""gear stats with every controller of version 2: what is exceeded on purpose is counted."""

from __future__ import annotations

import json
from typing import Any

from gearhost import GearHost

# Takes memory until the kernel ends it, in a child, so that the payload goes on.
HUNGRY = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo fed; exec sleep 10000"


def stats(machine: GearHost, *names: str) -> dict[str, dict[str, Any]]:
    lines = machine.gear("stats", "--no-stream", "--interval", "5", "--output", "json", *names).splitlines()
    return {item["name"]: item for item in map(json.loads, lines)}


def test_limits_that_are_exceeded_are_counted(machine: GearHost) -> None:
    since = machine.sh("journalctl --sync; date +@%s")
    machine.gear("install", "hello", "obs-half", "--net", "none", "--cpus", "0.5", "--memory", "64m",
                 "--pids-limit", "50", "--start", "--", "/bin/sh", "-c", "while :; do :; done")  # fmt: skip
    machine.gear("install", "hello", "obs-hungry", "--net", "none", "--memory", "32m", "--memory-swap", "32m",
                 "--restart", "no", "--start", "--", "/bin/sh", "-c", HUNGRY)  # fmt: skip
    machine.gear("install", "hello", "obs-full", "--net", "none", "--start",
                 "--", "/bin/sh", "-c", "while :; do :; done")  # fmt: skip
    found = stats(machine, "obs-half", "obs-full")
    half, full = found["obs-half"], found["obs-full"]
    # Two loops have two processors, with the work of the machine, and of the one that emulates it, beside them.
    assert 27 <= half["cpu"]["percent"] <= 53 and 54 <= half["cpu"]["quota_percent"] <= 106, half
    assert half["cpu"]["percent"] < full["cpu"]["percent"] <= 103 and full["cpu"]["quota_percent"] is None, (
        full
    )
    assert half["cpu"]["quota"] == 0.5 and half["cpu"]["throttled_periods"] > 10
    assert half["cpu"]["throttled_seconds"] > 1 and full["cpu"]["throttled_periods"] in (0, None)
    assert 0 < half["memory"]["current"] <= half["memory"]["limit"] == 64 << 20
    assert half["pids"] == {"current": 1, "limit": 50}
    assert half["pressure"]["cpu"]["some"] > 0 and half["io"]["read_bytes"] is not None
    if machine.host.release != "bookworm":
        assert half["memory"]["peak"] >= half["memory"]["current"] - (1 << 20)

    # systemd ends a unit whose processes are killed so (OOMPolicy=stop), and tells.
    events = (
        "events",
        "--since",
        since,
        "--no-follow",
        "--output",
        "json",
        "--filter",
        "container=obs-hungry",
    )
    machine.wait(lambda: '"oom"' in machine.gear(*events), "systemd to tell that memory ran out")
    machine.wait(lambda: '"die"' in machine.gear(*events), "the end")
    (die,) = [item for item in map(json.loads, machine.gear(*events).splitlines()) if item["event"] == "die"]
    assert die["result"] == "oom-kill"
    machine.gear("delete", "obs-hungry")
    # One that lives on has it in its counters.
    machine.gear("install", "hello", "obs-hungry", "--net", "none", "--memory", "32m", "--memory-swap", "32m")
    machine.write("/etc/systemd/system/ctr-obs-hungry.service.d/oom.conf", b"[Service]\nOOMPolicy=continue\n")
    machine.gear("install", "hello", "obs-hungry", "--net", "none", "--memory", "32m", "--memory-swap", "32m",
                 "--start", "--", "/bin/sh", "-c", HUNGRY)  # fmt: skip
    machine.sh("systemctl daemon-reload; systemctl restart ctr-obs-hungry")
    machine.wait(lambda: "fed" in machine.gear("logs", "--invocation", "obs-hungry"), "the payload to go on")
    hungry = stats(machine, "obs-hungry")["obs-hungry"]
    assert hungry["memory"]["oom_kills"] == 1 and hungry["running"] is True
    assert 'gear_container_oom_kills_total{container="obs-hungry"} 1\n' in machine.gear("metrics")
    machine.sh("rm -r /etc/systemd/system/ctr-obs-hungry.service.d")
    machine.gear("delete", "obs-half", "obs-full", "obs-hungry")
