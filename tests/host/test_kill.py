"""SIGKILL at every step of install and delete: the same command, run again, succeeds.

strace kills gear at the N-th system call that changes anything, for N from 1 until gear gets through.
"""

from __future__ import annotations

from gearhost import GearHost

STATE = ("cd /var/lib/gear;"
         " find containers uids volumes -not -path '*/.partial-*' -printf '%p %m %U %G %l\\n' | sort;"
         " cat containers/*/*.json; cat /usr/local/lib/systemd/system/ctr-*.service")  # fmt: skip


def test_install_survives_being_killed_anywhere(host: GearHost) -> None:
    command = ("install", "hello", "victim", "-v", "victims:/data", "-e", "A=1")
    host.gear(*command)
    expected = host.sh(STATE)
    host.gear("delete", "--volumes", "victim")
    step = 1
    while host.killed(step, *command):
        host.gear(*command)
        assert host.sh(STATE) == expected, f"after a kill at step {step}"
        # What the kill left behind is found, and nothing else is.
        for item in host.leftovers():
            assert ".partial-" in item["path"], item
        host.gear("clean")
        assert host.sh(STATE) == expected, f"after cleaning up step {step}"
        assert host.leftovers() == []
        host.gear("delete", "--volumes", "victim")
        step += 1
    assert step > 40, "the kills did not reach install"
    host.gear("start", "victim")


def test_change_survives_being_killed_anywhere(host: GearHost) -> None:
    host.gear("install", "hello", "victim", "-e", "A=1", "--start")
    pid = host.pid("victim")
    step = 1
    while True:
        old, new = f"V={step}", f"V={step}new"
        host.gear("install", "hello", "victim", "-e", old)
        if not host.killed(step, "install", "hello", "victim", "-e", new, "--stop-timeout", "3"):
            break
        host.gear("install", "hello", "victim", "-e", new, "--stop-timeout", "3")
        assert (
            host.gear("plan", "hello", "victim", "-e", new, "--stop-timeout", "3")
            == "victim: nothing would change\n"
        )
        assert host.show("ctr-victim", "NeedDaemonReload") == "no"
        host.gear("clean")
        step += 1
    assert step > 10
    assert host.pid("victim") == pid


def test_delete_survives_being_killed_anywhere(host: GearHost) -> None:
    step = 1
    while True:
        host.gear("install", "hello", "victim", "-v", "victims:/data", "--start")
        if not host.killed(step, "delete", "--volumes", "victim"):
            break
        host.gear("delete", "--volumes", "victim")
        host.gear("clean", "--volumes")
        assert host.leftovers() == []
        assert (
            host.sh(
                "ls /var/lib/gear/containers /var/lib/gear/uids /var/lib/gear/volumes | grep -c victim || :"
            )
            == "0"
        )
        assert (
            host.sh("ls /usr/local/lib/systemd/system /etc/systemd/system/*.wants | grep -c victim || :")
            == "0"
        )
        assert host.show("ctr-victim", "LoadState") == "not-found"
        step += 1
    assert step > 10, "the kills did not reach delete"


def test_load_survives_being_killed_now_and_then(host: GearHost) -> None:
    host.sh("rm -rf /root/load && cp -r /root/hello /root/load")
    expected = host.sh("cd /var/lib/gear/images && find . | sort")
    state = ("--state-dir", "/var/lib/gear-kill")
    host.gear(*state, "image", "load", "/root/load")
    expected = host.sh("cd /var/lib/gear-kill/images && find . | sort")
    for step in (1, 5, 10, 20, 40, 80, 160, 320, 640):
        host.sh("rm -rf /var/lib/gear-kill")
        if not host.killed(step, *state, "image", "load", "/root/load"):
            break
        host.gear(*state, "image", "load", "/root/load")
        host.gear(*state, "clean")
        assert host.sh("cd /var/lib/gear-kill/images && find . | sort") == expected, (
            f"after a kill at step {step}"
        )
    host.sh("rm -rf /var/lib/gear-kill")
