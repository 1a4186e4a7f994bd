"""What nested hosts can't show: the freezer, and groups of version 2 alone, with everything that gets inside."""

from __future__ import annotations

from gearhost import GearHost

COUNTER = "n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.1; done"


def test_paused_container_stands_still_and_goes_on(machine: GearHost) -> None:
    machine.gear("install", "hello", "clock", "-u", "0", "--start", "--", "/bin/sh", "-c", COUNTER)
    path = f"/proc/{machine.pid('clock')}/root/tmp/count"
    machine.wait(lambda: machine.run("test", "-s", path, check=False).returncode == 0, "the first number")
    assert machine.gear("pause", "clock") == "clock is paused\n"
    assert machine.json("status", "clock")[0]["paused"] is True
    assert "paused" in machine.gear("list-units") and "Paused: runs again with" in machine.gear(
        "status", "clock"
    )
    assert machine.gear("pause", "clock") == "clock is paused already\n"
    assert "clock is paused" in machine.fails(1, "exec", "clock", "true")
    before = machine.read(path)
    # Files can be looked at meanwhile.
    machine.gear("cp", "clock:/tmp/count", "/root/count")
    assert machine.read("/root/count") == before
    assert machine.gear("resume", "clock") == "clock runs again\n"
    machine.wait(lambda: machine.read(path) not in (before, b""), "the next number")
    # One that is paused can be stopped.
    machine.gear("pause", "clock")
    machine.gear("stop", "clock")
    assert machine.show("ctr-clock.service", "ActiveState") == "inactive"
    machine.gear("delete", "clock")


def test_exec_lands_in_the_group_and_under_its_limits(machine: GearHost) -> None:
    machine.gear("install", "hello", "web", "-m", "64m", "--start")
    machine.gear("exec", "-d", "web", "sleep", "1000")
    group = machine.show("ctr-web.service", "ControlGroup")
    assert len(machine.read(f"/sys/fs/cgroup{group}/cgroup.procs").split()) == 2
    done = machine.run(
        "gear", "exec", "web", "--", "sh", "-c", "x=$(head -c 100000000 /dev/zero | tr '\\0' x)", check=False
    )
    assert done.returncode != 0
    machine.gear("delete", "web")


def test_exec_reaches_a_whole_system(machine: GearHost) -> None:
    machine.gear("install", "host:/", "sys", "--ephemeral", "--", "/sbin/init")
    machine.sh("systemctl start ctr-sys.service")
    said: set[bytes] = set()

    def booted() -> bool:
        command = ("gear", "exec", "sys", "systemctl", "is-system-running", "--wait")
        said.add(machine.run(*command, check=False).stdout)
        return bool(said & {b"running\n", b"degraded\n"})

    machine.wait(booted, "the system to boot")
    assert b"running\n" in said, machine.gear("exec", "sys", "systemctl", "--failed")
    assert machine.gear("exec", "sys", "cat", "/proc/1/comm") == "systemd\n"
    # In a group of a leaf, where systemd inside allows processes.
    assert machine.gear("exec", "sys", "cat", "/proc/self/cgroup") == "0::/init.scope\n"
    assert "systemd-journald" in " ".join(row["command"] for row in machine.json("top", "sys"))
    machine.gear("stop", "sys")
    machine.gear("delete", "sys")


def test_run_is_limited_as_a_scope(machine: GearHost) -> None:
    script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
    out = machine.gear("run", "--rm", "-m", "64m", "--pids-limit", "99", "hello", "sh", "-c", script)
    assert out.split() == ["67108864", "99"]
