"""The storage drivers, each with the same tests, on the file systems that they are for."""

from __future__ import annotations

import os
import re
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import archives
import pytest
from gearhost import GearHost, demo_image, start_host

STATE = "/var/lib/gear"
MIB = 1 << 20

# Runs as root of a container, in a directory of it: a subvolume that is read-only, one below it, and a deep tree.
HOSTILE = """
import fcntl, os, sys
os.chdir(sys.argv[1])
def subvolume(name):
    here = os.open(".", os.O_RDONLY)
    fcntl.ioctl(here, 0x5000940E, bytearray(bytes(8) + name.encode().ljust(4088, b"\\0")))
    os.close(here)
def deep():
    for level in range(700):
        os.mkdir("d"); os.chdir("d")
    open("file", "w").close()
if sys.argv[2] == "btrfs":
    for level in range(3):
        subvolume("s"); os.chdir("s"); os.mkdir("dir"); os.chdir("dir"); open("file", "w").close()
    deep()
    os.chdir(sys.argv[1])
    for name in ("s/dir/s/dir/s", "s/dir/s", "s"):
        fcntl.ioctl(os.open(name, os.O_RDONLY), 0x4008941A, (2).to_bytes(8, "little"))
else:
    deep()
"""


# As `gear` would, for arguments DRIVER SOURCE TARGET SHIFT.
SNAPSHOT = """
import sys
from pathlib import Path
sys.path.insert(0, "/opt/gear")
from gear import storage
driver, source, target, shift = sys.argv[1:]
storage.driver(driver).snapshot(Path(source), Path(target), shift=int(shift))
"""
# Everything that find can tell of a tree.  Overlayfs keeps another name of its whiteouts in its scratch space.
LISTING = (
    "find {0} -path {0}/work -prune -o -type c -printf '%P %y %U %G\\n' "
    "-o -printf '%P %y %U %G %m %s %n %T@ %l\\n' | sort"
)


@dataclass(frozen=True)
class Storage:
    """A host, and the driver that its containers get."""

    host: GearHost
    driver: str
    kind: str  # of the file system that gear's state is on

    def install(self, image: str, name: str, *options: str) -> None:
        self.host.gear("install", image, name, "--storage-driver", self.driver, *options)

    def tree(self, name: str) -> str:
        """The directory of the host that has what the container writes to its root."""
        writable = self.host.sh(f"ls -d {STATE}/containers/{name}/layer-*")
        return f"{writable}/{'upper' if self.driver == 'overlay' else 'root'}"

    def sh(self, name: str, script: str) -> str:
        """What a shell script prints that root of the container runs."""
        return self.host.gear("exec", "--user", "0", name, "--", "sh", "-ec", script).rstrip("\n")

    def used(self) -> int:
        """Bytes that the file system has given away."""
        return int(self.host.sh(f"sync; df -B1 --output=used {STATE} | tail -n 1"))


def _layers(directory: Path) -> list[bytes]:
    """Two layers with everything that a tree of files can have, packed by GNU tar."""
    low, high = directory / "low", directory / "high"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "data/cap", "opaque", "gone/below"):
        (low / name).mkdir(parents=True)
    busybox = Path("/bin/busybox").read_bytes()
    for name in ("bin/busybox", "data/cap/grep"):
        (low / name).write_bytes(busybox)
        (low / name).chmod(0o755)
    os.setxattr(
        low / "data/cap/grep", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    )
    applets = "sh cat ls stat sleep rm mkdir ln chown chmod mknod mv grep id truncate dd du test echo"
    for applet in applets.split():
        (low / "bin" / applet).symlink_to("busybox")
    (low / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nwww:x:1000:1001::/:/bin/sh\n")
    (low / "etc/release").write_text("1\n")
    (low / "data/owned").write_text("owned\n")
    os.chown(low / "data/owned", 1000, 1001)
    (low / "data/owned").chmod(0o640)
    (low / "data/suid").write_text("suid\n")
    (low / "data/suid").chmod(0o4755)
    os.link(low / "data/owned", low / "data/again")
    (low / "data/link").symlink_to("owned")
    os.mknod(low / "data/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(low / "data/fifo")
    os.setxattr(low / "data/owned", "user.note", b"kept")
    with open(low / "data/sparse", "wb") as file:
        file.truncate(256 * MIB)
        file.seek(100 * MIB)
        file.write(b"island")
    (low / "opaque/old").write_text("old\n")
    (low / "gone/below/file").write_text("x")
    for name in ("etc", "opaque"):
        (high / name).mkdir(parents=True)
    (high / "etc/release").write_text("2\n")
    (high / "opaque/.wh..wh..opq").touch()
    (high / "opaque/new").write_text("new\n")
    (high / ".wh.gone").touch()
    (low / "tmp").chmod(0o1777)
    archive = ["tar", "--xattrs", "--xattrs-include=*", "--sort=name", "-Sc", "-C"]
    return [
        subprocess.run([*archive, path, "."], check=True, stdout=subprocess.PIPE).stdout
        for path in (low, high)
    ]


def _bulk() -> bytes:
    """A layer with 32 MiB that nothing compresses, and many small files: it takes its time."""
    small = [
        archives.entry(f"small/{number // 100}/{number}", b"x" * 100, uid=0, gid=0) for number in range(2000)
    ]
    return archives.tar(archives.entry("large", os.urandom(32 * MIB), uid=0, gid=0), *small)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with the images trees:1, trees:2 and bulk."""
    directory = tmp_path_factory.mktemp("trees")
    layers = _layers(directory)
    layout = archives.OciLayout()
    for tag, used in (("trees:1", layers), ("trees:2", layers[:1]), ("bulk:latest", [layers[0], _bulk()])):
        layout.image(*used, name=tag, document=archives.config(*used, Cmd=["sleep", "10000"]))
    (directory / "images.tar").write_bytes(layout.archive())
    return directory / "images.tar"


KINDS = ["overlay-ext4", "vfs-ext4", "btrfs-btrfs", "vfs-xfs"]


@pytest.fixture(scope="module", params=KINDS)
def machine(
    request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Storage]:
    driver, kind = request.param.split("-")
    host = request.getfixturevalue("booted") if kind == "ext4" else start_host()
    try:
        if kind != "ext4":
            host.mount_new(kind, STATE)
            host.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
            host.gear("image", "load", "/root/hello")
        host.host.copy(images, "/var/tmp")
        host.gear("image", "load", "/var/tmp/images.tar")
        yield Storage(host, driver, kind)
        if kind == "ext4":
            host.gear("image", "rm", "trees:1", "trees:2", "bulk")
    finally:
        if kind != "ext4":
            host.host.stop()


@pytest.fixture
def storage(machine: Storage) -> Iterator[Storage]:
    with machine.host.tidy():
        yield machine


def test_an_image_looks_the_same_whatever_the_driver(storage: Storage) -> None:
    storage.install("trees:1", "st-look", "--start")
    form = "stat -c '%n %u %g %a %h %F' /data/owned /data/again /data/suid /data/link /data/fifo"
    assert storage.sh("st-look", form).splitlines() == [
        "/data/owned 1000 1001 640 2 regular file",
        "/data/again 1000 1001 640 2 regular file",
        "/data/suid 0 0 4755 1 regular file",
        "/data/link 0 0 777 1 symbolic link",
        "/data/fifo 0 0 644 1 fifo",
    ]
    assert storage.sh("st-look", "stat -c '%u %g %a' /tmp /") == "0 0 1777\n0 0 755"
    assert storage.sh("st-look", "cat /data/link /etc/release; ls /opaque") == "owned\n2\nnew"
    # A device is left out, or shows and can't be opened.
    assert storage.sh("st-look", "test ! -e /gone; cat /data/null 2> /dev/null || echo right") == "right"
    size, blocks = map(int, storage.sh("st-look", "stat -c '%s %b' /data/sparse").split())
    assert size == 256 * MIB and blocks * 512 < MIB
    assert storage.sh("st-look", f"dd if=/data/sparse bs=1 skip={100 * MIB} count=6 2>/dev/null") == "island"
    root = f"/proc/{storage.host.pid('st-look')}/root"
    note = f"import os; print(os.getxattr('{root}/data/owned', 'user.note'))"
    assert storage.host.out("python3", "-c", note) == "b'kept'"
    # The capability of a program counts for who is not root.
    command = (
        "exec",
        "--user",
        "1000:1001",
        "st-look",
        "--",
        "/data/cap/grep",
        "CapEff",
        "/proc/self/status",
    )
    assert storage.host.gear(*command).split()[1] == f"{1 << 10:016x}"


def test_the_root_is_the_containers_own_and_shows_no_devices(storage: Storage) -> None:
    storage.install("trees:1", "st-root", "--start")
    options = storage.sh("st-root", "grep ' / ' /proc/mounts").split()[3].split(",")
    assert "nodev" in options and "rw" in options and not {"nosuid", "noexec"} & set(options)
    base = storage.host.json("status", "st-root")[0]["uid_range"]["base"]
    storage.sh("st-root", "echo x > /mine; chown 1000:1001 /mine; chmod 4755 /mine")
    shifted = base if storage.driver == "overlay" else 0
    found = storage.host.sh(f"stat -c '%u %g %a' {storage.tree('st-root')}/mine")
    assert found == f"{shifted + 1000} {shifted + 1001} 4755"
    # Programs with the set-user-ID bit are out of reach of the host's users.
    done = storage.host.run(
        "setpriv", "--reuid", "33", "--regid", "33", "--clear-groups", "cat", f"{storage.tree('st-root')}/mine",
        check=False,
    )  # fmt: skip
    assert b"Permission denied" in done.stderr


def test_what_is_written_is_there_after_a_restart(storage: Storage) -> None:
    storage.install("trees:1", "st-keep", "--start")
    storage.sh(
        "st-keep",
        "echo 1 > /etc/release; rm /data/link; mkdir /opaque/d; mv /data/suid /opaque/d; rm -r /bin/dd",
    )
    storage.host.gear("restart", "st-keep")
    look = "cat /etc/release; ls /opaque /opaque/d; test ! -e /bin/dd -a ! -e /data/link"
    assert storage.sh("st-keep", look).split() == ["1", "/opaque:", "d", "new", "/opaque/d:", "suid"]
    # Nothing happens when it is installed again.
    assert storage.host.gear("install", "trees:1", "st-keep") == "st-keep is as it was\n"
    assert storage.sh("st-keep", "cat /etc/release") == "1"


def test_two_containers_share_an_image_and_nothing_else(storage: Storage) -> None:
    before = storage.used()
    for name in ("st-one", "st-two"):
        storage.install("bulk", name, "--start")
    # 32 MiB each, unless the file system shares them.
    if storage.kind != "ext4":
        assert storage.used() - before < 24 * MIB
    storage.sh("st-one", "echo one > /etc/release; rm /large")
    assert storage.sh("st-two", "cat /etc/release; ls -d /large") == "1\n/large"
    storage.install("bulk", "st-three", "--start")
    assert storage.sh("st-three", "cat /etc/release; ls -d /large") == "1\n/large"
    if storage.driver == "btrfs":
        done = storage.host.run("sh", "-c", f"rm {STATE}/images/subvolumes/sha256/*/large", check=False)
        assert b"Read-only file system" in done.stderr


def test_read_only_and_ephemeral_roots(storage: Storage) -> None:
    storage.install("trees:1", "st-ro", "--read-only", "--start", "--tmpfs", "/run2")
    error = storage.host.fails(1, "exec", "--user", "0", "st-ro", "--", "sh", "-c", "echo x > /mine")
    assert "Read-only file system" in error
    assert storage.sh("st-ro", "echo x > /run2/mine; cat /etc/release") == "2"
    assert "Read-only" in storage.host.fails(1, "cp", "/etc/hostname", "st-ro:/mine")
    storage.install("trees:1", "st-brief", "--ephemeral", "--start")
    storage.sh("st-brief", "echo x > /mine")
    storage.host.gear("restart", "st-brief")
    assert storage.sh("st-brief", "ls -d /mine 2>/dev/null || echo gone; cat /etc/release") == "gone\n2"


def test_the_hosts_user_ids(storage: Storage) -> None:
    storage.install("trees:1", "st-host", "--userns", "host", "--start")
    assert storage.sh("st-host", "stat -c '%u %g' /data/owned; cat /proc/self/uid_map").split() == [
        "1000", "1001", "0", "0", "4294967295",
    ]  # fmt: skip
    storage.sh("st-host", "echo x > /mine")
    assert storage.host.sh(f"stat -c %u {storage.tree('st-host')}/mine") == "0"
    # The tree is the same with other ids, where it has those of the image.
    if storage.driver != "overlay":
        storage.install("trees:1", "st-host")
        storage.host.gear("restart", "st-host")
        assert storage.sh("st-host", "stat -c '%u' /mine; cat /proc/self/uid_map").split()[:2] == ["0", "0"]


def test_copies_there_and_back(storage: Storage) -> None:
    host = storage.host
    storage.install("trees:1", "st-copy", "--start")
    for state in ("runs", "does not run"):
        host.sh(f"rm -rf /root/st-out; mkdir -p /root/st-in/d; echo '{state}' > /root/st-in/d/file")
        host.gear("cp", "/root/st-in/d", "st-copy:/tmp")
        host.gear("cp", "st-copy:/tmp/d/file", "/root/st-out")
        assert host.out("cat", "/root/st-out") == state
        base = host.json("status", "st-copy")[0]["uid_range"]["base"] if storage.driver == "overlay" else 0
        assert host.sh(f"stat -c %u {storage.tree('st-copy')}/tmp/d/file") == str(base)
        host.gear("stop", "st-copy")
    host.gear("start", "st-copy")
    assert storage.sh("st-copy", "cat /tmp/d/file; stat -c %u /tmp/d/file") == "does not run\n0"
    host.sh("rm -r /root/st-in /root/st-out")


def test_another_image_gets_another_root(storage: Storage) -> None:
    host = storage.host
    storage.install("trees:1", "st-image", "--start")
    storage.sh("st-image", "echo mine > /mine")
    storage.install("trees:2", "st-image")
    assert storage.sh("st-image", "cat /mine /etc/release") == "mine\n2"
    host.gear("restart", "st-image")
    assert storage.sh("st-image", "ls -d /mine 2>/dev/null || :; cat /etc/release; ls /opaque") == "1\nold"
    host.gear("stop", "st-image")
    (left,) = host.leftovers()
    assert left["what"] == "a writable layer of an earlier image or storage driver"
    # The earlier one is there until it is cleaned away.
    host.gear("install", "trees:1", "st-image", "--start")
    assert storage.sh("st-image", "cat /mine /etc/release") == "mine\n2"
    host.gear("stop", "st-image")
    host.gear("clean")
    assert host.leftovers() == []
    host.gear("start", "st-image")
    assert storage.sh("st-image", "cat /mine") == "mine"


def test_another_driver_gets_another_root(storage: Storage) -> None:
    host = storage.host
    other = "vfs" if storage.driver == "overlay" else "overlay"
    storage.install("trees:1", "st-driver", "--start")
    storage.sh("st-driver", "echo mine > /mine")
    assert host.gear("install", "trees:1", "st-driver", "--storage-driver", other) == (
        "st-driver is changed: storage; it runs with what was before until: gear restart st-driver\n"
    )
    host.gear("restart", "st-driver")
    assert storage.sh("st-driver", "ls -d /mine 2>/dev/null || :; cat /etc/release") == "2"
    # The driver stays, unless another one is asked for.
    assert host.gear("install", "trees:1", "st-driver") == "st-driver is as it was\n"
    host.gear("stop", "st-driver")
    host.gear("clean")
    assert len(host.sh(f"ls -d {STATE}/containers/st-driver/layer-*").split()) == 1


def test_run_leaves_nothing(storage: Storage) -> None:
    host = storage.host
    options = ("--storage-driver", storage.driver)
    assert host.gear("run", "--rm", *options, "trees:1", "cat", "/etc/release") == "2\n"
    host.gear("run", "-d", "--rm", "--name", "st-run", *options, "trees:1", "sleep", "10000")
    assert storage.sh("st-run", "echo x > /mine; cat /etc/release") == "2"
    host.gear("stop", "st-run")
    host.wait(lambda: not host.sh(f"ls -A {STATE}/containers"), "the container's removal")


def test_every_unit_passes_systemds_check(storage: Storage) -> None:
    storage.install("trees:1", "st-unit")
    done = storage.host.run(
        "systemd-analyze", "verify", "/usr/local/lib/systemd/system/ctr-st-unit.service", check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_a_containers_root_makes_is_removed_all_the_same(storage: Storage) -> None:
    host = storage.host
    storage.install("trees:1", "st-evil", "-v", "st-evil:/vol", "--start")
    pid = host.pid("st-evil")
    for place in ("tmp", "vol"):
        kind = storage.kind if storage.driver != "overlay" or place == "vol" else ""
        host.run("nsenter", "--target", str(pid), "--user", "--setuid", "0", "--setgid", "0", "python3", "-",
                 f"/proc/{pid}/root/{place}", kind, input=HOSTILE.encode())  # fmt: skip
    host.gear("delete", "--volumes", "st-evil")
    assert host.sh(f"ls -A {STATE}/containers {STATE}/volumes") == f"{STATE}/containers:\n\n{STATE}/volumes:"


@pytest.mark.parametrize("nested", [False, True])
def test_a_snapshot_has_everything(storage: Storage, nested: bool) -> None:
    """Also what is in subvolumes that the container made."""
    host = storage.host
    storage.install("trees:1", "st-snap", "--start")
    storage.sh(
        "st-snap",
        "rm -r /opaque /data/link; mkdir /opaque /tmp/deep; echo x > /data/owned; ln /etc/release /tmp/x",
    )
    storage.sh("st-snap", "truncate -s 1000000000 /tmp/sparse; chown 1000:1000 /tmp/sparse; mkfifo /tmp/fifo")
    base = host.json("status", "st-snap")[0]["uid_range"]["base"]
    if nested and storage.driver == "btrfs":
        pid = host.pid("st-snap")
        host.run("nsenter", "--target", str(pid), "--user", "--setuid", "0", "--setgid", "0", "python3", "-",
                 f"/proc/{pid}/root/tmp", storage.kind, input=HOSTILE.replace("700", "7").encode())  # fmt: skip
    host.gear("stop", "st-snap")
    source = Path(storage.tree("st-snap")).parent
    target = source.with_name("copy")
    shift = 65536 if storage.driver == "overlay" and nested else 0
    host.run("python3", "-", storage.driver, str(source), str(target), str(shift), input=SNAPSHOT.encode())
    before = host.sh(LISTING.format(source))
    expected = re.sub(
        r"(?<= )\d{6}(?= )",
        lambda number: str(int(number[0]) + (shift if base <= int(number[0]) < base + 65536 else 0)),
        before,
    )
    found = host.sh(LISTING.format(target))
    # The two directories on top are new.
    assert found.splitlines()[1:] == expected.splitlines()[1:] and len(found.splitlines()) > 10
    assert int(host.sh(f"du -sm --apparent-size {target}").split()[0]) > 900
    assert int(host.sh(f"du -sm {target}").split()[0]) < 100
    script = (
        "import sys; sys.path.insert(0, '/opt/gear'); from pathlib import Path; from gear import storage;"
    )
    host.run("python3", "-c", f"{script} storage.driver('{storage.driver}').remove(Path('{target}'))")
    assert host.run("test", "-e", str(target), check=False).returncode == 1
    assert host.sh(LISTING.format(source)) == before


@pytest.mark.parametrize("place", ["images/subvolumes/sha256", "containers/st-kill"])
def test_an_install_that_is_killed_leaves_what_clean_finds(storage: Storage, place: str) -> None:
    host = storage.host
    if storage.driver == "overlay" or (storage.driver == "vfs" and place.startswith("images")):
        # Two directories are too quick to be caught in between; that is what they look like.
        host.sh(f"mkdir -p {STATE}/{place}/.partial-layer-x/root")
    else:
        if place.startswith("images"):
            host.gear("image", "rm", "bulk")
            host.gear("image", "load", "/var/tmp/images.tar")
        _kill_within(storage, place)
    assert host.leftovers() != []
    host.gear("clean")
    assert host.leftovers() == []
    assert host.sh(f"find {STATE} -name '.partial-*'") == ""
    storage.install("bulk", "st-kill", "--start")
    assert storage.sh("st-kill", "ls /small/19 | grep -c .") == "100"


def _kill_within(storage: Storage, place: str) -> None:
    """Kill an installation as soon as there is unfinished work in *place*."""
    script = f"""
    gear install bulk st-kill --storage-driver {storage.driver} > /dev/null 2>&1 &
    while kill -0 $! 2> /dev/null; do
        for path in {STATE}/{place}/.partial-*; do
            [ -e "$path" ] && kill -9 $! && break
        done
    done
    wait $! || echo $?
    """
    assert storage.host.sh(script) == "137"


def test_without_btrfs_the_driver_is_refused(host: GearHost) -> None:
    error = host.fails(1, "install", "hello", "st-none", "--storage-driver", "btrfs")
    assert error == (
        "error: The storage driver btrfs needs /var/lib/gear on a btrfs file system.\n"
        "hint: Use --storage-driver overlay or vfs.\n"
    )
    assert host.sh(f"ls {STATE}/containers") == ""
    assert "no storage driver 'zfs'" in host.fails(
        2, "install", "hello", "st-none", "--storage-driver", "zfs"
    )
    error = host.fails(2, "install", "host:/usr", "st-none", "--storage-driver", "vfs")
    assert "it would copy a directory of this machine" in error


def test_the_driver_of_a_host_is_configured(host: GearHost) -> None:
    def configure(text: str) -> None:
        host.write("/etc/gear/storage.yaml", text.encode())

    try:
        host.gear("install", "hello", "st-before")
        configure("driver: vfs\n")
        host.gear("install", "hello", "st-after")
        host.gear("install", "hello", "st-before", "-e", "A=1")
        drivers = [host.json("inspect", name)[0]["spec"]["storage"] for name in ("st-before", "st-after")]
        assert drivers == ["overlay", "vfs"]
        assert '"storage": "vfs"' in host.gear("plan", "hello", "st-new")
        for text, sentence in (
            ("driver: zfs\n", "There is no storage driver 'zfs'."),
            ("drivers: vfs\n", "has an unknown member 'drivers'."),
            ("- vfs\n", "is not a mapping."),
            ("driver: [vfs]\n", "There is no storage driver ['vfs']."),
        ):
            configure(text)
            error = host.fails(2, "install", "hello", "st-new")
            assert "/etc/gear/storage.yaml" in error and sentence in error
        # Who asks for one does not need the file.
        host.gear("install", "hello", "st-new", "--storage-driver", "overlay")
    finally:
        host.sh("rm -f /etc/gear/storage.yaml; rmdir /etc/gear")


def test_purge_takes_subvolumes_away(tmp_path: Path) -> None:
    host = start_host()
    try:
        host.mount_new("btrfs", STATE)
        host.host.copy(demo_image(tmp_path), "/root")
        host.gear("image", "load", "/root/hello")
        host.gear("install", "hello", "st-purge", "--storage-driver", "btrfs", "--start")
        host.gear("purge")
        assert host.sh(f"ls -A {STATE}") == ""
        # Containers and images on two file systems.
        host.gear("image", "load", "/root/hello")
        host.mount_new("btrfs", f"{STATE}/containers")
        error = host.fails(1, "install", "hello", "st-purge", "--storage-driver", "btrfs")
        assert f"needs {STATE}/containers and {STATE}/images on one file system." in error
    finally:
        host.host.stop()
