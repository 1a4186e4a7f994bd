"""Named volumes: limits that hold, copies that are whole, nothing lost; and directories of the host for one owner."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gearhost import GearHost, demo_image, start_host

IDLE = ("--", "/bin/sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done")
STATE = "/var/lib/gear"

# BTRFS_IOC_QUOTA_CTL: what `btrfs quota enable` does.
COUNT = b"""
import fcntl, os, struct
fcntl.ioctl(os.open("/var/lib/gear", os.O_RDONLY), 0xC0109428, bytearray(struct.pack("<QQ", 1, 0)))
"""
# BTRFS_IOC_SUBVOL_CREATE.
NEST = """
import fcntl, os, time
fcntl.ioctl(os.open("/mnt", os.O_RDONLY), 0x5000940E, bytearray(8) + b"more".ljust(4088, b"\\0"))
print("made", flush=True)
time.sleep(1000)
"""
# Everything that a file can have; the time is that of the whole tree.
MANY = r"""
import os, struct, sys
os.chdir(sys.argv[1])
os.makedirs("deep/" * 30)
open(".wh.named", "w").write("no whiteout")
open("file", "w").write("content")
os.chown("file", 1000, 70000)
os.chmod("file", 0o4750)
os.link("file", "deep/again")
os.symlink("/etc/passwd", "link")
os.mkfifo("fifo")
os.mknod("whiteout", 0o020000, os.makedev(0, 0))
with open("holes", "wb") as file:
    file.truncate(64 << 20); file.seek(32 << 20); file.write(b"x" * 4096)
os.setxattr("file", "user.note", b"\0\1")
os.setxattr("deep", "user.overlay.opaque", b"y")
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in (
    (1, 6, 0xFFFFFFFF), (2, 4, 33), (4, 4, 0xFFFFFFFF), (0x10, 4, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)))
open("listed", "w").close()
os.setxattr("listed", "system.posix_acl_access", acl)
os.setxattr("listed", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
for top, directories, files in os.walk("."):
    for name in (*directories, *files):
        os.utime(os.path.join(top, name), ns=(0, 1234567890123456789), follow_symlinks=False)
os.utime(".", ns=(0, 1234567890123456789))
"""
# As gear compares layers; nothing is printed where two trees are the same.
COMPARE = """
import sys
from pathlib import Path
sys.path.insert(0, "/opt/gear")
from gear import treediff
for line in treediff.differences(Path(sys.argv[1]), Path(sys.argv[2]), made_ns=1 << 62):
    print(line)
"""


@pytest.fixture(scope="module")
def _counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GearHost]:
    machine = start_host()
    try:
        machine.mount_new("btrfs", STATE)
        machine.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
        machine.gear("image", "load", "/root/hello")
        error = machine.fails(1, "volume", "create", "uncounted", "--size", "20m")
        assert "quotas are off" in error and "btrfs quota enable" in error
        machine.write("/root/count", COUNT)
        machine.run("python3", "/root/count")
        yield machine
    finally:
        machine.host.stop()


@pytest.fixture(params=["directory", "subvolume"])
def kept(request: pytest.FixtureRequest) -> Iterator[GearHost]:
    """A host whose volumes are directories, and one whose are subvolumes."""
    machine: GearHost = request.getfixturevalue("booted" if request.param == "directory" else "_counting")
    with machine.tidy():
        yield machine
        left = machine.gear("volume", "list", "--quiet").split()
        if left:
            machine.gear("volume", "rm", *left)


def volume(host: GearHost, name: str) -> str:
    return f"{STATE}/volumes/{name}/data"


def names(host: GearHost) -> list[str]:
    return [row["name"] for row in host.json("volume", "list")]


def same(host: GearHost, first: str, second: str) -> str:
    host.write("/root/compare", COMPARE.encode())
    return host.out("python3", "/root/compare", first, second)


def fill(host: GearHost, name: str) -> None:
    host.write("/root/many", MANY.encode())
    host.run("python3", "/root/many", volume(host, name))


def test_a_limit_holds_inside_and_can_be_changed(_counting: GearHost) -> None:
    host = _counting
    with host.tidy():
        assert host.gear("volume", "create", "vollim", "--size", "20m", "-l", "a=b") == "vollim is made\n"
        assert "already" in host.gear("volume", "create", "vollim", "--size", "20m", "-l", "a=b")
        assert "another limit" in host.fails(1, "volume", "create", "vollim", "--size", "30m")
        host.gear("install", "hello", "vollim", "-u", "0", "-v", "vollim:/data", "--start", *IDLE)
        write = ("exec", "vollim", "sh", "-c", "dd if=/dev/zero of=/data/file bs=1M count=40 && sync")
        assert "quota exceeded" in host.fails(1, *write)
        (row,) = host.json("volume", "list")
        assert row["limit"] == row["size"] == 20 << 20 and 15 << 20 < row["used"] <= 20 << 20
        assert (
            row["driver"] == "subvolume" and row["containers"] == ["vollim"] and row["labels"] == {"a": "b"}
        )
        host.gear("volume", "resize", "vollim", "60m")
        host.gear(*write)
        # The kernel counts a subvolume for itself, and lets anybody make one: that is told.
        host.gear("install", "host:/", "volnest", "--ephemeral", "--userns", "host", "-v", "vollim:/mnt", "--start",
                  "--ready-when", "log:^made", "--restart", "no", "--", "/usr/bin/python3", "-c", NEST)  # fmt: skip
        host.gear("delete", "volnest")
        assert "has subvolumes of its own" in host.run("gear", "fsck", check=False).stdout.decode()
        host.sh(f"rm -r {volume(host, 'vollim')}/more")
        assert host.gear("fsck") == "everything is as it should be\n"
        # A snapshot that is restored, and a clone, are limited as the volume is.
        host.gear("volume", "snapshot", "vollim", "full", "--no-pause")
        host.gear("stop", "vollim")
        host.gear("volume", "restore", "vollim", "full")
        host.gear("volume", "clone", "vollim", "vollim2")
        assert [row["limit"] for row in host.json("volume", "list")] == [60 << 20] * 2
        # What is not in force any more is found, and mended.
        host.gear("volume", "resize", "vollim2", "none")
        record = f"{STATE}/volumes/vollim2/volume.json"
        host.sh(f'sed -i \'s/"size": null/"size": 41943040/\' {record}')
        assert "is not limited to 41943040 bytes" in host.run("gear", "fsck", check=False).stdout.decode()
        host.gear("fsck", "--repair")
        (row,) = json.loads(host.gear("volume", "inspect", "vollim2"))
        assert row["limit"] == 40 << 20
        assert "vollim has it" in host.fails(1, "volume", "rm", "vollim")
        host.gear("delete", "vollim")
        host.gear("volume", "rm", "vollim", "vollim2")
        assert names(host) == []


def test_what_a_file_can_have_survives_every_copy(kept: GearHost) -> None:
    host = kept
    host.gear("volume", "create", "volmany")
    fill(host, "volmany")
    host.gear("volume", "snapshot", "volmany", "first")
    host.gear("volume", "clone", "volmany", "volmany2")
    for ending in ("tar", "tar.gz"):
        archive = f"/root/volmany.{ending}"
        host.gear("volume", "backup", "volmany", "-o", archive)
        host.gear("volume", "import", f"volmany.{ending}", archive)
    host.sh("gear volume backup volmany | gear volume import volmany.pipe -")
    others = ("volmany2", "volmany.tar", "volmany.tar.gz", "volmany.pipe")
    places = [volume(host, name) for name in others] + [f"{STATE}/volumes/volmany/snapshots/first/data"]
    for place in places:
        assert same(host, volume(host, "volmany"), place) == "", place
        assert int(host.sh(f"du -sB1 {place}").split()[0]) < 1 << 20
        read = f"import os; print(os.getxattr('{place}/deep', 'user.overlay.opaque'))"
        assert host.out("python3", "-c", read) == "b'y'"
    # Back to it, whatever became of the volume.
    host.sh(f"cd {volume(host, 'volmany')}; rm -r deep file; echo other > listed")
    host.gear("volume", "restore", "volmany", "first")
    assert same(host, places[0], volume(host, "volmany")) == ""
    assert [row["label"] for row in host.json("volume", "snapshot", "volmany", "--list")] == ["first"]
    host.gear("volume", "snapshot", "volmany", "--rm", "first")
    assert "has no snapshot first" in host.fails(1, "volume", "restore", "volmany", "first")
    assert "a volume volmany2 already" in host.fails(1, "volume", "clone", "volmany", "volmany2")
    assert "a volume volmany2 already" in host.fails(1, "volume", "import", "volmany2", "/root/volmany.tar")
    assert host.gear("fsck") == "everything is as it should be\n"


def test_killed_anywhere_a_volume_is_whole(kept: GearHost, tmp_path: Path) -> None:
    host = kept
    host.gear("volume", "create", "volkill")
    host.sh(f"cd {volume(host, 'volkill')}; mkdir a; echo one > a/file; ln a/file b")
    host.gear("volume", "backup", "volkill", "-o", "/root/volkill.tar")
    host.gear("volume", "snapshot", "volkill", "one")
    before = host.sh(f"cp -a {volume(host, 'volkill')} /root/volkill; ls /root/volkill")
    verbs = (
        (("volume", "create", "volkill2", "--owner", "5"), "gear volume rm volkill2"),
        (("volume", "clone", "volkill", "volkill2"), "gear volume rm volkill2"),
        (("volume", "import", "volkill2", "/root/volkill.tar"), "gear volume rm volkill2"),
        (("volume", "snapshot", "volkill", "two"), "gear volume snapshot volkill --rm two || :"),
        (("volume", "restore", "volkill", "one"), ":"),
        (("volume", "rm", "volkill2"), "gear volume create volkill2"),
    )
    # The others do the same on both.
    different = [item for item in verbs if item[0][1] in ("clone", "restore")]
    is_subvolume = host.json("volume", "list")[0]["driver"] == "subvolume"
    for verb, undo in different if is_subvolume else verbs:
        if verb[1] == "rm":
            host.gear("volume", "create", "volkill2")
        steps = host.steps(*verb, most=4)
        for step in steps:
            host.sh(undo)
            host.killed(step, *verb)
            assert same(host, "/root/volkill", volume(host, "volkill")) == "", (verb, step)
            host.gear("clean")
            assert host.sh(f"find {STATE}/volumes -name '.partial-*' -prune") == "", (verb, step)
        # The same once more, unless it was done.
        done = host.run("gear", *verb, check=False)
        assert done.returncode == 0 or b"already" in done.stderr, (verb, done.stderr)
        assert host.gear("fsck") == "everything is as it should be\n", verb
        host.sh(undo)
    assert before.split() == ["a", "b"]
    host.sh("rm -r /root/volkill")


def test_a_hostile_archive_reaches_nothing_outside(host: GearHost, tmp_path: Path) -> None:
    host.sh("echo mine > /root/volsecret")
    bad = {
        "parent": [("../volsecret", tarfile.REGTYPE, b"theirs", "")],
        "link": [("l", tarfile.SYMTYPE, b"", "/root"), ("l/volsecret", tarfile.REGTYPE, b"theirs", "")],
        "hard": [("l", tarfile.LNKTYPE, b"", "/root/volsecret")],
    }
    for name, entries in bad.items():
        path = tmp_path / f"volbad-{name}.tar"
        with tarfile.open(path, "w") as archive:
            for entry, kind, data, target in entries:
                member = tarfile.TarInfo(entry)
                member.type, member.size, member.linkname = kind, len(data), target
                archive.addfile(member, io.BytesIO(data))
        host.host.copy(path, "/root")
        host.run("gear", "volume", "import", "volbad", f"/root/{path.name}", check=False)
        assert host.read("/root/volsecret") == b"mine\n"
        host.gear("volume", "rm", "volbad")
    host.write("/root/volbad.tar", b"x" * 4096)
    assert "error: " in host.fails(1, "volume", "import", "volbad", "/root/volbad.tar")
    assert "volbad" not in names(host)


def test_volumes_outlive_containers_until_somebody_asks(host: GearHost) -> None:
    host.gear("volume", "create", "volnamed")
    host.gear(
        "volume", "create", "volimage", "--from-image", "hello:/etc", "--owner", "7:8", "--mode", "0700"
    )
    assert host.sh(f"stat -c '%u:%g %a' {volume(host, 'volimage')}") == "7:8 700"
    assert "no directory /none" in host.fails(1, "volume", "create", "volnone", "--from-image", "hello:/none")
    # Made empty, and so filled by its first container, from the image.
    host.gear("install", "hello", "volfirst", "-u", "0", "-v", "volnamed:/etc", "-v", "volmade:/data", *IDLE)
    assert "passwd" in host.sh(f"ls {volume(host, 'volnamed')}")
    host.gear("delete", "volfirst")
    assert host.gear("volume", "prune") == "there is nothing to remove\n"
    assert host.gear("volume", "prune", "--all", "--label", "x", "--dry-run") == ""
    assert host.json("volume", "prune", "--all")["volumes"] == ["volimage", "volmade", "volnamed"]
    # One without a record, as earlier versions made them, is as good.
    host.sh(f"mkdir -p {STATE}/volumes/volold/data; chmod 700 {STATE}/volumes")
    (row,) = host.json("volume", "list")
    assert (row["name"], row["size"], row["anonymous"]) == ("volold", None, False)
    assert host.gear("fsck") == "everything is as it should be\n"
    host.gear("volume", "rm", "volold")
    assert "is no volume" in host.gear("volume", "rm", "volold")


def test_a_directory_of_the_host_as_its_owner_sees_it(host: GearHost) -> None:
    # Not /srv: overlayfs has no idmapped mounts.
    source = "/var/lib/volsrc"
    host.sh(f"mkdir -p {source}; echo mine > {source}/mine; echo roots > {source}/roots; chmod 600 {source}/*; "
            f"chown 1000:1001 {source} {source}/mine")  # fmt: skip
    long = f"type=bind,src={source},dst=/other,readonly,idmap=1000:1001,owner=33:34"
    host.gear("install", "hello", "volsrc", "-u", "0", "-v", f"{source}:/src:idmap=1000:1001", "--mount", long,
              "--start", *IDLE)  # fmt: skip

    def inside(script: str) -> str:
        return host.gear("exec", "volsrc", "sh", "-c", f"{script} 2>&1 || :").strip()

    assert inside("stat -c %u:%g /src/mine /src/roots /other/mine").split() == ["0:0", "65534:65534", "33:34"]
    assert inside("cat /src/mine; echo more >> /src/mine; echo new > /src/new; chmod 4755 /src/new") == "mine"
    assert "denied" in inside("cat /src/roots")
    assert "too large" in inside("chown 5 /src/new").lower()
    assert "Read-only" in inside("touch /other/file")
    assert host.sh(f"stat -c '%u:%g %a' {source}/new; cat {source}/mine") == "1000:1001 4755\nmine\nmore"
    # No other id of the host can own anything there: not the container's own, and not root.
    host.run("gear", "exec", "-u", "5:5", "volsrc", "touch", "/src/x", check=False)
    assert host.sh(f"find {source} ! -user 1000 ! -name roots") == ""
    host.gear("delete", "volsrc")
    host.sh(f"rm -r {source}")


def test_a_directory_in_a_volume_is_never_one_outside(host: GearHost) -> None:
    mount = "type=volume,source=volsub,target=/data,volume-subpath=a/b"
    host.gear("volume", "create", "volsub", "--owner", "0")
    host.sh(f"mkdir -p {volume(host, 'volsub')}/a/b; echo inner > {volume(host, 'volsub')}/a/b/f")
    host.gear("install", "hello", "volsub", "-u", "0", "--mount", mount, "--start", *IDLE)
    assert host.gear("exec", "volsub", "cat", "/data/f") == "inner\n"
    host.gear("stop", "volsub")
    host.sh(f"cd {volume(host, 'volsub')}; rm -r a; ln -s /etc a; mkdir -p /etc/b; echo outer > /etc/b/f")
    assert "open a/b in" in host.fails(1, "start", "volsub")
    host.gear("stop", "volsub")
    host.sh(f"mkdir -p {volume(host, 'volsub')}/etc/b; rm -r /etc/b")
    host.gear("start", "volsub")
    host.gear("delete", "volsub", "--volumes")


def test_df_counts_as_du_does(host: GearHost) -> None:
    host.gear("install", "hello", "voldf", "-u", "0", "-v", "voldf:/data", "--start", *IDLE)
    host.gear(
        "exec",
        "voldf",
        "sh",
        "-c",
        "dd if=/dev/zero of=/file bs=1M count=3; cp /file /data; ln /data/file /data/x",
    )
    host.gear("volume", "snapshot", "voldf", "s", "--no-pause")
    host.sh(f"mkdir -p {STATE}/images/downloads/sha256; sync")
    found = {kind["kind"]: kind for kind in host.json("df")}
    assert list(found) == ["images", "containers", "volumes", "snapshots", "downloads"]

    def du(*paths: str) -> int:
        return sum(
            int(line.split()[0]) for line in host.sh(f"du -scB1 {' '.join(paths)} | tail -n 1").splitlines()
        )

    assert found["images"]["bytes"] == du(f"{STATE}/images")
    assert sum(found[kind]["bytes"] for kind in ("volumes", "snapshots")) == du(f"{STATE}/volumes/*")
    (item,) = [item for item in found["volumes"]["items"] if item["name"] == "voldf"]
    assert 3 << 20 < item["bytes"] < 4 << 20 and item["containers"] == ["voldf"]
    (item,) = [item for item in found["containers"]["items"] if item["name"] == "voldf"]
    assert item["bytes"] == du(f"{STATE}/containers/voldf") and 3 << 20 < item["writable"] < 4 << 20
    assert found["snapshots"]["reclaimable"] >= 3 << 20
    before = found["volumes"]["reclaimable"]
    host.gear("delete", "voldf")
    found = {kind["kind"]: kind for kind in host.json("df")}
    assert found["volumes"]["reclaimable"] >= before + (3 << 20)
    assert "gear volume prune --all" in host.gear("df", "--verbose")
    host.gear("volume", "rm", "voldf")
