"""SIGKILL at many steps of install and delete: the same command, run again, succeeds.

strace kills gear at a system call that changes something; GearHost.steps() chooses which.
"""

from __future__ import annotations

import json

from gearhost import GearHost

STATE = ("cd /var/lib/gear;"
         " find containers uids volumes -not -path '*/.partial-*' -printf '%p %m %U %G %l\\n' | sort;"
         " cat containers/*/*.json; cat /usr/local/lib/systemd/system/ctr-*.service")  # fmt: skip


def nothing_damaged(host: GearHost, step: tuple[str, int]) -> None:
    """What was cut off may be left over, and is never damage; only PID 1 may not have been told of a unit yet."""
    found = json.loads(host.run("gear", "fsck", "--quick", "--output", "json", check=False).stdout)
    untold = "has changed since systemd read it"
    wrong = [item for item in found if item["damage"] and untold not in item["what"]]
    assert not wrong, f"after a kill at step {step}: {wrong}"


def test_install_survives_being_killed_anywhere(host: GearHost) -> None:
    command = ("install", "hello", "victim", "-v", "victims:/data", "-e", "A=1")
    host.gear(*command)
    host.gear("delete", "--volumes", "victim")
    steps, kills = host.steps(*command, most=14), 0
    expected = host.sh(STATE)
    for number, step in enumerate(steps):
        host.gear("delete", "--volumes", "victim")
        kills += host.killed(step, *command)
        nothing_damaged(host, step)
        host.gear(*command)
        assert host.sh(STATE) == expected, f"after a kill at step {step}"
        # What the kill left behind is found, and nothing else is.
        left = host.leftovers()
        for item in left:
            assert ".partial-" in item["path"], item
        if left or number == 0:
            host.gear("clean")
            assert host.sh(STATE) == expected, f"after cleaning up step {step}"
            assert host.leftovers() == []
    assert kills > 8 and kills >= len(steps) - 3, "the kills did not reach install"
    host.gear("start", "victim")


def test_change_survives_being_killed_anywhere(host: GearHost) -> None:
    host.gear("install", "hello", "victim", "-e", "A=1", "--start")
    pid = host.pid("victim")
    steps, kills = host.steps("install", "hello", "victim", "-e", "A=2", "--stop-timeout", "3"), 0
    for number, step in enumerate(steps):
        new = ("hello", "victim", "-e", f"V={number}", "--stop-timeout", str(4 + number))
        kills += host.killed(step, "install", *new)
        nothing_damaged(host, step)
        if number % 3 == 0:
            host.gear("fsck", "--quick", "--repair")
            assert host.gear("fsck", "--quick") == "everything is as it should be\n"
        host.gear("install", *new)
        assert host.gear("plan", *new) == "victim: nothing would change\n"
        assert host.show("ctr-victim", "NeedDaemonReload") == "no"
    host.gear("clean")
    assert kills > 5 and kills >= len(steps) - 3
    assert host.pid("victim") == pid


def test_delete_survives_being_killed_anywhere(host: GearHost) -> None:
    make = ("install", "hello", "victim", "-v", "victims:/data", "--start")
    host.gear(*make)
    steps, kills = host.steps("delete", "--volumes", "victim"), 0
    for step in steps:
        host.gear(*make)
        kills += host.killed(step, "delete", "--volumes", "victim")
        nothing_damaged(host, step)
        host.gear("delete", "--volumes", "victim")
        host.gear("clean", "--volumes")
        assert host.leftovers() == []
        state = "ls /var/lib/gear/containers /var/lib/gear/uids /var/lib/gear/volumes"
        units = "ls /usr/local/lib/systemd/system /etc/systemd/system/*.wants"
        assert host.sh(f"{{ {state}; {units}; }} | grep -c victim || :") == "0"
        assert host.show("ctr-victim", "LoadState") == "not-found"
    assert kills > 5 and kills >= len(steps) - 3, "the kills did not reach delete"
