"""Snapshots: kept whole, restored whole, never in the way of what runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from gearhost import GearHost

IDLE = ("--", "/bin/sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done")


def kills(host: GearHost, calls: str, *arguments: str) -> Iterator[str]:
    """Run gear and kill it at each of the *calls* that it makes; strace counts each call by itself.

    A name may have a stride behind it, as in `mkdir/3`.  What calls this puts everything back after each kill.
    """
    for word in calls.split():
        call, _, stride = word.partition("/")
        step = 1
        while True:
            inject = f"inject={call}:signal=SIGKILL:when={step}"
            done = host.run("strace", "-qq", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject,
                            "/usr/local/bin/gear", *arguments, check=False)  # fmt: skip
            assert done.returncode in (0, 137), done.stderr.decode()
            yield f"{call} {step}" if done.returncode else ""
            if done.returncode == 0:
                break
            step += int(stride or 1)


def labels(host: GearHost, name: str) -> list[str]:
    return [row["label"] for row in host.json("snapshot", name, "--list")]


def write(host: GearHost, name: str, text: str) -> None:
    host.gear("exec", name, "sh", "-c", f"echo {text} > /file; echo {text} > /data/file; sync")


def seen(host: GearHost, name: str) -> str:
    """What a container has, and how it was asked to run."""
    return host.gear("exec", name, "sh", "-c", "echo $(cat /file /data/file) $V")


@pytest.mark.parametrize("driver", ["overlay", "btrfs", "vfs"])
def test_files_specification_and_volumes_come_back_together(fitting: GearHost, driver: str) -> None:
    host = fitting
    options = ("-u", "0", "-v", "olds:/data", "--storage-driver", driver)
    host.gear("install", "hello", "old", *options, "-e", "V=1", "--start", *IDLE)
    write(host, "old", "one")
    made = host.json("snapshot", "old", "first", "--volumes", "--no-pause")
    assert made["label"] == "first" and made["volumes"] == ["olds"] and made["container"] == "old"
    write(host, "old", "two")
    host.gear("snapshot", "old", "second", "--no-pause")
    host.gear("install", "hello", "old", *options, "-e", "V=2", "--stop-timeout", "3", *IDLE)
    host.gear("restart", "old")
    write(host, "old", "three")
    assert seen(host, "old") == "three three 2\n"
    assert (
        "old runs" in (error := host.fails(1, "snapshot", "old", "--restore", "first"))
        and "--restart" in error
    )
    assert host.gear("snapshot", "old", "--restore", "first", "--restart") == (
        "old is what it was at first, and runs again\n"
    )
    assert seen(host, "old") == "one one 1\n"
    assert host.show("ctr-old", "NeedDaemonReload") == "no"
    assert host.json("status", "old")[0]["restart_needed"] is False
    # Without the data of volumes these stay as they are.
    host.gear("stop", "old")
    assert "holds no volumes" in host.fails(1, "snapshot", "old", "--restore", "second", "--volumes")
    host.gear("snapshot", "old", "--restore", "second")
    host.gear("start", "old")
    assert seen(host, "old") == "two one 1\n"
    assert labels(host, "old") == ["first", "second"]
    assert [item["label"] for item in json.loads(host.gear("inspect", "old"))[0]["snapshots"]] == [
        "first",
        "second",
    ]
    host.gear("snapshot", "old", "--rm", "first")
    assert labels(host, "old") == ["second"]
    assert "old has no snapshot first" in (error := host.fails(1, "snapshot", "old", "--rm", "first"))
    assert "hint: It has second." in error
    assert "snapshots: 1" in host.gear("delete", "--volumes", "old")


def test_an_image_that_a_snapshot_needs_stays(host: GearHost) -> None:
    host.gear("install", "hello", "rolled", "-u", "0", "--start", *IDLE)
    host.gear("exec", "rolled", "sh", "-c", "echo v2 > /version")
    host.gear("commit", "--no-pause", "rolled", "release:2")
    host.gear("install", "release:2", "rolled", "-u", "0", *IDLE)
    host.gear("restart", "rolled")
    host.gear("snapshot", "rolled", "two", "--no-pause")
    host.gear("install", "hello", "rolled", "-u", "0", *IDLE)
    host.gear("restart", "rolled")
    error = host.fails(1, "image", "rm", "release:2")
    assert "in use by rolled (snapshot two)" in error
    host.gear("clean", "--images")
    host.gear("snapshot", "rolled", "--restore", "two", "--restart")
    assert host.gear("exec", "rolled", "cat", "/version") == "v2\n"
    host.gear("clean")
    host.gear("delete", "rolled")
    host.gear("image", "rm", "release:2")


def test_a_volume_that_another_runs_with_is_not_replaced(host: GearHost) -> None:
    for name in ("one", "two"):
        host.gear("install", "hello", name, "-u", "0", "-v", "shared:/data", "--start", *IDLE)
    host.gear("snapshot", "one", "s", "--volumes", "--no-pause")
    error = host.fails(1, "snapshot", "one", "--restore", "s", "--restart")
    assert "two runs, and has the volume shared as well" in error
    # It was stopped for that, and runs again.
    assert host.show("ctr-one", "ActiveState") == "active"
    host.gear("stop", "two")
    host.gear("snapshot", "one", "--restore", "s", "--restart")


def test_wrong_requests(host: GearHost) -> None:
    host.gear("install", "hello", "odd")
    for words in (
        ("a", "--list"),
        ("a", "--rm", "b"),
        ("--restart",),
        ("--rm", "x", "--volumes"),
        ("../x",),
        (".x",),
    ):
        host.fails(2, "snapshot", "odd", *words)
    assert "There is no container nobody" in host.fails(1, "snapshot", "nobody")
    host.gear("snapshot", "odd")
    host.gear("snapshot", "odd")
    assert len(labels(host, "odd")) == 2
    assert host.gear("snapshot", "odd", "--list").splitlines()[0].split() == [
        "LABEL",
        "CREATED",
        "IMAGE",
        "VOLUMES",
    ]


def test_a_snapshot_survives_being_killed_anywhere(host: GearHost) -> None:
    host.gear("install", "hello", "victim", "-u", "0", "-v", "victims:/data", "--start", *IDLE)
    write(host, "victim", "one")
    host.gear("stop", "victim")
    count = 0
    for where in kills(host, "rename fsync mkdir/2 fchown/3", "snapshot", "victim", "s", "--volumes"):
        count += bool(where)
        if labels(host, "victim") == []:
            for item in host.leftovers():
                assert ".partial-" in item["path"], item
            host.gear("clean")
            host.gear("snapshot", "victim", "s", "--volumes")
        assert host.leftovers() == [], where
        host.gear("snapshot", "victim", "--rm", "s")
    assert count > 10, "the kills did not reach the snapshot"


def test_a_restore_survives_being_killed_anywhere(host: GearHost) -> None:
    options = ("-u", "0", "-v", "halves:/data")
    host.gear("install", "hello", "half", *options, "-e", "V=old", "--start", *IDLE)
    write(host, "half", "old")
    host.gear("stop", "half")
    host.gear("snapshot", "half", "old", "--volumes")
    host.gear("install", "hello", "half", *options, "-e", "V=new", *IDLE)
    host.gear("start", "half")
    write(host, "half", "new")
    host.gear("stop", "half")
    host.gear("snapshot", "half", "new", "--volumes")
    refused = 0
    for where in kills(host, "rename fsync unlink/2 unlinkat/5", "snapshot", "half", "--restore", "old"):
        if host.sh("test -e /var/lib/gear/containers/half/switch.json && echo begun || :"):
            # Neither old nor new: systemd alone does not start it, whoever looks next finishes it.
            assert host.run("systemctl", "start", "ctr-half", check=False).returncode != 0
            assert "restore of a snapshot was interrupted" in host.gear("logs", "half", "--all")
            host.run("systemctl", "stop", "ctr-half")
            assert "A restore of half was interrupted" in host.fails(1, "cp", "half:/file", "-")
            refused += 1
            if refused % 2:
                assert "was interrupted" in host.leftovers()[0]["what"]
                host.gear("clean")
            host.gear("start", "half")
            assert seen(host, "half") == "old old old\n", where
        else:
            host.gear("start", "half")
            assert seen(host, "half") in ("old old old\n", "new new new\n"), where
        host.gear("stop", "half")
        host.gear("clean")
        assert host.leftovers() == [], where
        host.gear("snapshot", "half", "--restore", "new")
    assert refused > 5, "the kills did not reach the switch"


def test_a_clone_survives_being_killed_anywhere(host: GearHost) -> None:
    host.gear("install", "hello", "origin", "-u", "0", "-v", "origins:/data", "--start", *IDLE)
    write(host, "origin", "x")
    host.gear("stop", "origin")
    count = 0
    for where in kills(host, "rename/2 fsync/3 symlink", "clone", "origin", "dolly", "--volumes"):
        count += 1
        if count % 2 and where:
            host.gear("clean")
        done = host.run("gear", "clone", "origin", "dolly", "--volumes", check=False)
        assert done.returncode == 0 or b"There is a container dolly already" in done.stderr, done.stderr
        host.gear("apply", "dolly")
        host.gear("start", "dolly")
        assert seen(host, "dolly") == "x x\n", where
        host.gear("clean")
        assert host.leftovers() == [], where
        host.gear("delete", "--volumes", "dolly")
    assert count > 10, "the kills did not reach the clone"


def test_a_commit_survives_being_killed_anywhere(host: GearHost) -> None:
    host.gear("install", "hello", "author", "-u", "0", "--start", *IDLE)
    host.gear("exec", "author", "sh", "-c", "echo x > /file")
    host.gear("stop", "author")
    expected = host.json("commit", "author", "work")["digest"]
    host.gear("image", "rm", "work")
    for where in kills(host, "rename fsync/2", "commit", "author", "work"):
        if where:
            host.gear("clean")
        assert host.json("commit", "author", "work")["digest"] == expected
        host.gear("image", "rm", "work")
        assert host.leftovers() == [], where
