"""Limits of volumes by projects, which takes a kernel with quotas: xfs and ext4."""

from __future__ import annotations

import json

import pytest
from gearhost import GearHost

IDLE = ("--", "/bin/sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done")


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_project_limits_a_volume(machine: GearHost, kind: str) -> None:
    state, volumes = "/var/lib/gear", f"/mnt/{kind}"
    machine.sh(f"modprobe loop; modprobe {kind}")
    machine.mount_new(kind, volumes, options="loop,prjquota")
    machine.sh(f"mkdir -p {state}/volumes; mount --bind {volumes} {state}/volumes; chmod 700 {state}/volumes")
    try:
        machine.gear("volume", "create", "limited", "--size", "20m")
        machine.gear("install", "hello", "writer", "-u", "0", "-v", "limited:/data", "--start", *IDLE)
        write = ("exec", "writer", "sh", "-c", "dd if=/dev/zero of=/data/file bs=1M count=30 && sync")
        error = machine.fails(1, *write)
        assert "No space left" in error or "quota exceeded" in error.lower()
        # Whatever root of the container does, it stays in its project: what it makes counts.
        machine.gear("exec", "writer", "sh", "-c", "rm /data/file; mkdir -p /data/a/b; echo x > /data/a/b/c")
        machine.gear("volume", "snapshot", "limited", "s")
        machine.gear("volume", "resize", "limited", "40m")
        machine.gear(*write)
        machine.gear("stop", "writer")
        machine.gear("volume", "restore", "limited", "s")
        # Unlimited ones are given a project with all that they hold.
        machine.gear("volume", "create", "later", "--owner", "0")
        machine.sh(
            f"cd {state}/volumes/later/data; mkdir d; dd if=/dev/zero of=d/f bs=1M count=5 2>/dev/null"
        )
        machine.gear("volume", "resize", "later", "8m")
        more = f"dd if=/dev/zero of={state}/volumes/later/data/d/g bs=1M count=5 oflag=direct"
        # Root of the host is not held to limits by ext4.
        assert machine.run("sh", "-c", more, check=False).returncode == (1 if kind == "xfs" else 0)
        found = json.loads(machine.gear("volume", "inspect", "limited", "later"))
        assert [row["limit"] for row in found] == [40 << 20, 8 << 20]
        assert machine.gear("fsck") == "everything is as it should be\n"
    finally:
        machine.gear("delete", "writer")
        machine.gear("volume", "rm", "limited", "later")
        machine.sh(f"umount {state}/volumes")
