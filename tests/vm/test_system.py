"""A container whose payload is a whole system: it boots, manages its own services, and shuts down in order.

Its root is a view of the machine's own tree, which is Debian with systemd.
"""

from __future__ import annotations

from gearhost import GearHost


def booted(machine: GearHost, unit: str) -> int:
    """The pid of the system's first process, once the system says `running`."""
    # Before it is active its main process is the helper, which is outside.
    machine.wait(lambda: machine.show(unit, "ActiveState") == "active", f"{unit} to be active")
    pid = int(machine.show(unit, "MainPID"))
    inside = ("nsenter", "-t", str(pid), "-a", "systemctl", "is-system-running")
    machine.wait(lambda: machine.run(*inside, check=False).stdout == b"running\n", "the system to be up")
    return pid


def install(machine: GearHost, *options: str) -> None:
    # Not started by gear: it would start at boot then, and the system inside has the same links.
    machine.gear("install", "host:/", "sys", "--ephemeral", *options, "--", "/sbin/init")
    machine.sh("systemctl start ctr-sys.service")


def test_system_boots_in_its_own_cgroups_and_shuts_down_in_order(machine: GearHost) -> None:
    install(machine, "-v", "last-words:/srv")
    pid = booted(machine, "ctr-sys.service")
    inside = ("nsenter", "-t", str(pid), "-a")
    assert machine.out(*inside, "systemd-detect-virt", "--container") == "container-other"
    assert machine.out(*inside, "systemctl", "--failed", "--quiet", "--no-legend") == ""
    # Its services are in groups below the unit's own, which are limited as the unit is.
    groups = machine.sh(
        "cd /sys/fs/cgroup/container.slice/ctr-sys.service && ls -d */ system.slice/*.service"
    )
    assert {"init.scope/", "system.slice/", "system.slice/systemd-journald.service"} <= set(groups.split())
    base = machine.json("status", "sys")[0]["uid_range"]["base"]
    assert machine.sh(f"stat -c %u /proc/{pid}") == str(base)
    # Docker's rights: no mounting, not even within its user namespace.
    assert machine.sh(f"grep CapEff /proc/{pid}/status").split()[1] == "00000000a80425fb"
    machine.run(*inside, "systemd-run", "--quiet", "--unit", "last-words", "-p",
                "ExecStop=/bin/touch /srv/stopped", "sleep", "1000")  # fmt: skip
    machine.gear("stop", "sys")
    assert machine.show("ctr-sys.service", "Result") == "success"
    # Its services were stopped one by one.
    assert machine.sh("ls /var/lib/gear/volumes/last-words/data") == "stopped"
    log = machine.sh("journalctl -u ctr-sys.service -o cat")
    assert "Killing" not in log and "timed out" not in log
    machine.gear("delete", "--volumes", "sys")


def test_system_with_rights_of_its_own_reboots_and_powers_off(machine: GearHost) -> None:
    install(machine, "--systemd", "always", "--restart", "on-failure")
    first = booted(machine, "ctr-sys.service")
    machine.run("nsenter", "-t", str(first), "-a", "mount", "-t", "tmpfs", "t", "/mnt")
    machine.run("nsenter", "-t", str(first), "-a", "systemctl", "reboot")
    machine.wait(lambda: machine.show("ctr-sys.service", "NRestarts") == "1", "the restart")
    second = booted(machine, "ctr-sys.service")
    assert second != first
    machine.run("nsenter", "-t", str(second), "-a", "systemctl", "poweroff")
    machine.wait(lambda: machine.show("ctr-sys.service", "ActiveState") == "inactive", "the end")
    assert machine.show("ctr-sys.service", "Result") == "success"
    machine.gear("delete", "sys")


def test_a_range_of_the_machines_own_tree_is_mapped(machine: GearHost) -> None:
    machine.gear("install", "host:/", "view", "--restart", "no", "--start", "--", "/bin/sh", "-c",
                 "stat -c %u /etc/shadow; echo x > /etc/shadow; stat -c %u /etc/shadow; exec sleep 1000")  # fmt: skip
    before = machine.sh("sha256sum /etc/shadow")
    machine.wait(lambda: machine.gear("logs", "view").split() == ["0", "0"], "the script")
    assert machine.sh("sha256sum /etc/shadow") == before
    machine.gear("delete", "view")


def test_limits_of_swap_shares_and_processors(machine: GearHost) -> None:
    options = ("-m", "64m", "--memory-swap", "96m", "--cpu-shares", "512", "--cpuset-cpus", "1")
    machine.gear(
        "install", "host:/", "limits", "--ephemeral", *options, "--start", "--", "/bin/sleep", "1000"
    )
    group = "/sys/fs/cgroup/container.slice/ctr-limits.service"
    files = machine.sh(f"cd {group} && cat memory.max memory.swap.max cpu.weight cpuset.cpus").split()
    assert files == [str(64 << 20), str(32 << 20), "59", "1"]
    machine.gear("delete", "limits")
