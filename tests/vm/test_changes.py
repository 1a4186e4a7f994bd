"""What nested hosts can't show: a container that is frozen while it is copied, and is never left so."""

from __future__ import annotations

from gearhost import GearHost

# Two files that are the same whenever nothing runs in between.
WRITER = (
    "trap exit TERM; i=0; while :; do i=$((i+1)); echo $i > /tmp/a.new; mv /tmp/a.new /tmp/a;"
    " echo $i > /tmp/b.new; mv /tmp/b.new /tmp/b; done"
)


def is_running(machine: GearHost, name: str) -> bool:
    return machine.json("status", name)[0]["paused"] is False


def test_a_copy_of_what_runs_is_of_one_moment(machine: GearHost) -> None:
    machine.gear("install", "hello", "scribe", "-u", "0", "--start", "--", "/bin/sh", "-c", WRITER)
    machine.wait(lambda: "/tmp/b" in machine.gear("diff", "scribe"), "the first files")
    machine.gear("commit", "scribe", "moment")
    assert is_running(machine, "scribe")
    a, b = machine.sh("gear image export moment | tar -xO ./tmp/a ./tmp/b").split()
    assert int(a) - int(b) in (0, 1)
    made = machine.json("snapshot", "scribe", "s")
    assert made["label"] == "s" and is_running(machine, "scribe")
    machine.gear("clone", "scribe", "copyist")
    assert is_running(machine, "scribe")
    # What somebody has paused stays so.
    machine.gear("pause", "scribe")
    machine.gear("commit", "scribe", "paused")
    assert not is_running(machine, "scribe")
    machine.gear("resume", "scribe")
    machine.gear("image", "rm", "moment", "paused")
    # A machine that is a container's root boots what the machine does.
    machine.gear("delete", "--volumes", "scribe", "copyist")


def test_a_container_is_not_left_frozen_by_a_gear_that_was_killed(machine: GearHost) -> None:
    machine.gear("install", "hello", "frozen", "-u", "0", "--start", "--", "/bin/sh", "-c", WRITER)
    machine.wait(lambda: "/tmp/b" in machine.gear("diff", "frozen"), "the first files")
    mark = "/var/lib/gear/containers/frozen/pausing"
    # The first fsync(2) of a commit is that of the blob: the container is frozen then.
    kill = ("strace", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:signal=SIGKILL:when=1",
            "/usr/local/bin/gear", "commit", "frozen", "x")  # fmt: skip
    assert machine.run(*kill, check=False).returncode == 137
    # gear's child thaws it.
    machine.wait(lambda: is_running(machine, "frozen"), "the thaw")
    assert machine.sh(f"test -e {mark} && echo there || :") == "there"
    machine.gear("clean")
    assert machine.leftovers() == [] and machine.sh(f"test -e {mark} && echo there || :") == ""
    # And should that be killed as well, the next run does.
    machine.sh(f"systemctl freeze ctr-frozen; touch {mark}")
    assert not is_running(machine, "frozen")
    assert [item["path"] for item in machine.leftovers()] == [mark]
    machine.gear("clean")
    assert is_running(machine, "frozen") and machine.leftovers() == []
    machine.sh(f"systemctl freeze ctr-frozen; touch {mark}")
    machine.gear("commit", "frozen", "x")
    assert is_running(machine, "frozen")
    machine.gear("image", "rm", "x")
    machine.gear("delete", "frozen")
