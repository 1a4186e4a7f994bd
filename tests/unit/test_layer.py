"""Unpacking layers: what is kept, what is refused, and that nothing outside is ever touched."""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import shutil
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from archives import directory, entry, hard_link, snapshot, symlink, tar
from hypothesis import given, settings
from hypothesis import strategies as st

from gear.errors import GearError, IntegrityError
from gear.layer import Bounds, Unpacked, extract

ROOT = os.geteuid() == 0
BOUNDS = Bounds()
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: devices, owners or trusted attributes")


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A directory with a secret outside of the layer's root."""
    (tmp_path / "secret").write_text("untouched")
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    return tmp_path


def unpack(data: bytes, sandbox: Path, *, media_type: str | None = None, bounds: Bounds = BOUNDS) -> Unpacked:
    """Unpack *data* into sandbox/root."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        return extract(
            file, sandbox / "root", "The layer X", media_type=media_type, bounds=bounds, owners=ROOT
        )


def outside(sandbox: Path) -> dict[str, tuple[int, int, bytes]]:
    return {name: value for name, value in snapshot(sandbox).items() if not name.startswith("root/")}


HOSTILE = {
    "dotdot": ([entry("../secret", b"x")], "has an entry '../secret' with '..' in its name"),
    "dotdot inside": ([entry("a/../../secret", b"x")], "has an entry 'a/../../secret' with '..' in its name"),
    "absolute dotdot": ([entry("/../secret", b"x")], "has an entry '/../secret' with '..' in its name"),
    "dotdot directory": ([directory("..")], "has an entry '../' with '..' in its name"),
    "link to dotdot": ([hard_link("a", "../secret")], "has an entry 'a' with '..' in its name"),
    "link to absolute": (
        [hard_link("a", "/etc/hostname")],
        "has a hard link 'a' to '/etc/hostname', which is no file of this layer",
    ),
    "link through symlink": (
        [symlink("up", ".."), hard_link("a", "up/secret")],
        "has a hard link 'a' to 'up/secret', which is no file of this layer",
    ),
    "link to directory": (
        [directory("d"), hard_link("a", "d")],
        "has a hard link 'a' to 'd', which is no file of this layer",
    ),
    "link to the root": (
        [hard_link("a", "./")],
        "has a hard link 'a' to './', which is no file of this layer",
    ),
    "link to itself": (
        [hard_link("a", "a")],
        "has a hard link 'a' to 'a', which is no file of this layer",
    ),
    "root becomes a file": (
        [entry(".", b"x")],
        "has an entry '.' that replaces the root directory by a file",
    ),
    "root becomes a symlink": (
        [symlink("./", "/etc")],
        "has an entry './' that replaces the root directory by a symlink",
    ),
    "whiteout of nothing": ([entry("d/.wh.")], "has a whiteout 'd/.wh.' that names no file"),
    "whiteout of dot": ([entry(".wh..")], "has a whiteout '.wh..' that names no file"),
    "whiteout of dotdot": ([entry("d/.wh...")], "has a whiteout 'd/.wh...' that names no file"),
    "whiteout directory": ([directory(".wh.x")], "has a directory '.wh.x/' that is named like a whiteout"),
    "below a whiteout": ([entry(".wh./x")], "has an entry '.wh./x' below a whiteout"),
    "below a file": (
        [entry("a", b"x"), entry("a/b", b"x")],
        "has an entry 'a/b' that can't be made: Not a directory",
    ),
    "symlink loop": (
        [symlink("a", "b"), symlink("b", "a"), entry("a/x", b"x")],
        "has an entry 'a/x' that can't be made: Too many levels of symbolic links",
    ),
    "empty symlink": (
        [symlink("a", "")],
        "has a symlink 'a' whose target is empty, has a NUL or is too long",
    ),
    "long component": (
        [entry("n" * 256)],
        f"has an entry '{'n' * 200}' with a component of more than 255 bytes",
    ),
    "deep": ([entry("d/" * 300)], "deeper than 256 directories"),
    "nul": (
        [entry("x", pax_headers={"path": "a\0b"})],
        "has an entry 'a\\x00b' whose name has a NUL or is too long",
    ),
    "negative owner": (
        [entry("x", uid=-2)] if ROOT else [entry("../x")],
        "has an entry",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_entry_is_refused_by_name(name: str, sandbox: Path) -> None:
    members, message = HOSTILE[name]
    before = outside(sandbox)
    with pytest.raises(IntegrityError) as caught:
        unpack(
            tar(*members, format=tarfile.GNU_FORMAT if name == "negative owner" else tarfile.PAX_FORMAT),
            sandbox,
        )
    assert caught.value.message.startswith("The layer X ")
    assert message in caught.value.message
    assert outside(sandbox) == before


CONTAINED = {
    "absolute name": [entry("/secret", b"x")],
    "symlink up, written through": [symlink("up", "../../../../.."), entry("up/secret", b"x")],
    "absolute symlink, written through": [symlink("abs", "/"), entry("abs/secret", b"x")],
    "symlink replaced by what is written": [symlink("secret", "../secret"), entry("secret", b"x")],
    "directory through a symlink": [
        symlink("d", "../outside"),
        directory("d/sub"),
        entry("d/sub/secret", b"x"),
    ],
    "directory replaces a symlink": [symlink("d", "../outside"), directory("d"), entry("d/secret", b"x")],
    "hard link to a symlink": [symlink("l", "../secret"), hard_link("m", "l"), entry("m", b"x")],
    "whiteout through a symlink": [symlink("up", "../.."), entry("up/.wh.secret")],
}


@pytest.mark.parametrize("name", CONTAINED)
def test_what_is_written_stays_inside(name: str, sandbox: Path) -> None:
    before = outside(sandbox)
    unpack(tar(*CONTAINED[name]), sandbox)
    assert outside(sandbox) == before


def test_symlinked_parent_of_the_layer_itself_is_followed(sandbox: Path) -> None:
    unpack(tar(directory("usr/lib"), symlink("lib", "usr/lib"), entry("lib/x", b"here")), sandbox)
    assert (sandbox / "root/usr/lib/x").read_bytes() == b"here"
    assert os.readlink(sandbox / "root/lib") == "usr/lib"


def test_a_replaced_directory_is_not_written_to_any_more(sandbox: Path) -> None:
    unpack(tar(directory("a"), entry("a/x", b"1"), symlink("a", "b"), entry("a/y", b"2")), sandbox)
    assert snapshot(sandbox / "root").keys() == {"a", "b", "b/y"}


def test_repeated_entry_keeps_the_last(sandbox: Path) -> None:
    unpack(tar(entry("a", b"1"), hard_link("b", "a"), entry("a", b"2"), hard_link("a", "a")), sandbox)
    assert (sandbox / "root/a").read_bytes() == b"2"
    assert (sandbox / "root/b").read_bytes() == b"1"


@needs_root
def test_attributes_are_kept(sandbox: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    headers = {
        "SCHILY.xattr.user.note": "a\0b",
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
    }
    data = tar(
        directory("d", mode=0o1777, uid=1, gid=2, mtime=5, pax_headers={"mtime": "5.123456789"}),
        entry("d/suid", b"#!", mode=0o6755, uid=70000, gid=3, pax_headers=headers | {"mtime": "1.000000001"}),
        hard_link("d/other", "d/suid"),
        symlink("d/l", "nowhere"),
        entry("d/pipe", type=tarfile.FIFOTYPE, mode=0o620),
        entry("d/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        entry("d/disk", type=tarfile.BLKTYPE, devmajor=8, devminor=1, mode=0o660, gid=6),
    )
    unpack(data, sandbox)
    root = sandbox / "root/d"
    status = root.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o1777, 1, 2)
    assert status.st_mtime_ns == 5_123_456_789
    status = (root / "suid").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_nlink) == (0o6755, 70000, 3, 2)
    assert status.st_mtime_ns == 1_000_000_001
    assert os.getxattr(root / "suid", "user.note") == b"a\0b"
    assert os.getxattr(root / "suid", "security.capability") == capability
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert stat.S_ISCHR((root / "null").stat().st_mode)
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK((root / "disk").stat().st_mode)
    assert (root / "disk").stat().st_gid == 6


@needs_root
def test_attributes_that_steer_the_host_are_dropped(sandbox: Path) -> None:
    names = ("trusted.overlay.redirect", "trusted.x", "user.overlay.opaque", "security.selinux", "user.fine")
    unpack(tar(entry("f", pax_headers={f"SCHILY.xattr.{name}": "/etc" for name in names})), sandbox)
    assert os.listxattr(sandbox / "root/f") == ["user.fine"]


@needs_root
def test_whiteouts_become_what_overlayfs_understands(sandbox: Path) -> None:
    unpack(
        tar(directory("d"), entry("d/.wh.gone"), directory("o"), entry("o/.wh..wh..opq"), entry("o/x")),
        sandbox,
    )
    status = (sandbox / "root/d/gone").lstat()
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
    assert os.getxattr(sandbox / "root/o", "trusted.overlay.opaque") == b"y"
    assert snapshot(sandbox / "root").keys() == {"d", "d/gone", "o", "o/x"}


@needs_root
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_whiteout_hides_lower_layers_only(order: str, sandbox: Path) -> None:
    own = [directory("d"), entry("d/x", b"own")]
    unpack(tar(*([entry(".wh.d"), *own] if order == "before" else [*own, entry(".wh.d")])), sandbox)
    assert (sandbox / "root/d/x").read_bytes() == b"own"
    assert os.getxattr(sandbox / "root/d", "trusted.overlay.opaque") == b"y"


def test_the_leftovers_of_aufs_are_ignored(sandbox: Path) -> None:
    unpack(tar(entry(".wh..wh.aufs"), directory(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", b"x")), sandbox)
    assert snapshot(sandbox / "root") == {}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(format: int, sandbox: Path) -> None:
    name = "/".join(["n" * 200] * 5)
    unpack(tar(entry(name, b"x"), symlink("l", name), hard_link("h", name), format=format), sandbox)
    assert (sandbox / "root" / name).read_bytes() == b"x"
    assert os.readlink(sandbox / "root/l") == name
    assert (sandbox / "root/h").stat().st_nlink == 2


@pytest.mark.spawns
@pytest.mark.parametrize("kind", ["gnu", "posix 0.0", "posix 0.1", "posix 1.0"])
def test_sparse_files(kind: str, sandbox: Path) -> None:
    source = sandbox / "outside/sparse"
    with open(source, "wb") as file:
        for place in range(40):
            file.seek(place << 20)
            file.write(b"%d" % place)
        file.truncate(64 << 20)
    how = ["--format=gnu"] if kind == "gnu" else ["--format=posix", f"--sparse-version={kind[-3:]}"]
    made = subprocess.run(
        ["tar", "-C", source.parent, "-cS", *how, "sparse"], check=True, capture_output=True
    ).stdout
    assert len(made) < 1 << 20
    found = unpack(made, sandbox)
    copy = sandbox / "root/sparse"
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    assert copy.stat().st_blocks * 512 < 1 << 20
    assert found.size < 1 << 20


@pytest.mark.spawns
@pytest.mark.parametrize(("kind", "suffix"), [("plain", ""), ("gzip", "+gzip"), ("zstd", "+zstd")])
def test_compression_is_detected_and_must_be_the_announced_one(kind: str, suffix: str, sandbox: Path) -> None:
    plain = tar(entry("a", b"data"))
    if kind == "gzip":
        data = gzip.compress(plain)
    elif kind == "zstd":
        data = subprocess.run(["zstd", "-q"], input=plain, check=True, capture_output=True).stdout
    else:
        data = plain
    found = unpack(data, sandbox, media_type=f"application/vnd.oci.image.layer.v1.tar{suffix}")
    assert found.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert (sandbox / "root/a").read_bytes() == b"data"
    wrong = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if kind != "gzip" else "")
    with pytest.raises(IntegrityError, match=f"is announced as .*, but what it holds is {kind}"):
        unpack(data, sandbox, media_type=wrong)


def test_data_after_the_end_counts_for_the_digest(sandbox: Path) -> None:
    data = tar(entry("a", b"x")) + b"trailing"
    assert unpack(data, sandbox).diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("length", [1, 511, 513, 700, 1023])
def test_a_truncated_archive_is_refused(length: int, sandbox: Path) -> None:
    with pytest.raises(IntegrityError, match="is cut off"):
        unpack(tar(entry("a", b"x" * 600))[:length], sandbox)


@pytest.mark.spawns
def test_truncated_and_damaged_compression_is_refused(sandbox: Path) -> None:
    data = gzip.compress(tar(entry("a", os.urandom(4096))))
    with pytest.raises(IntegrityError, match="is cut off: its compressed data ends early"):
        unpack(data[:-20], sandbox)
    with pytest.raises(IntegrityError, match="is damaged"):
        unpack(data[:100] + bytes(200) + data[300:], sandbox)
    packed = subprocess.run(["zstd", "-q"], input=tar(entry("a")), check=True, capture_output=True).stdout
    # The module zstandard tells nobody that a stream ends early; what it gives is no whole archive then.
    with pytest.raises(IntegrityError, match="is (damaged|cut off|empty)"):
        unpack(packed[:-5], sandbox)


def test_a_damaged_header_in_the_middle_is_not_the_end(sandbox: Path) -> None:
    data = bytearray(tar(entry("a", b"x"), entry("b", b"y")))
    data[1024 + 3] ^= 0xFF
    with pytest.raises(IntegrityError, match="the header at byte 1024 has a wrong checksum"):
        unpack(bytes(data), sandbox)


BOMBS = {
    "bytes": (
        tar(entry("a", bytes(3 << 19)), entry("b", bytes(3 << 19))),
        Bounds(size=2 << 20),
        "is larger than 2097152 bytes when unpacked",
    ),
    "entries": (tar(*(entry(f"{n}") for n in range(20))), Bounds(entries=10), "has more than 10 entries"),
    "ratio": (
        gzip.compress(tar(entry("a", bytes(8 << 20)))),
        Bounds(ratio_floor=1 << 20, ratio=100),
        "grows more than 100 times when it is decompressed",
    ),
    "depth": (tar(entry("d/" * 20 + "x")), Bounds(depth=10), "deeper than 10 directories"),
    "header": (
        tar(entry("a", pax_headers={"comment": "x" * (2 << 20)})),
        Bounds(),
        "more than the 1048576 allowed",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_early(name: str, sandbox: Path) -> None:
    data, bounds, message = BOMBS[name]
    with pytest.raises(IntegrityError, match=message):
        unpack(data, sandbox, bounds=bounds)
    assert sum(path.stat().st_size for path in (sandbox / "root").rglob("*") if path.is_file()) <= 3 << 20


@pytest.mark.spawns
def test_a_gzip_bomb_takes_bounded_memory(sandbox: Path) -> None:
    """A child with 200 MB of address space stops a bomb of 400 MB, with the defaults for everything else."""
    info = tarfile.TarInfo("zeros")
    info.size = 400 << 20
    bomb = gzip.compress(info.tobuf()) + 10 * gzip.compress(bytes(40 << 20))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))
            unpack(bomb, sandbox)
        except IntegrityError as error:
            status = 0 if "grows more than 500 times" in error.message else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_sparse_file_of_absurd_size_is_refused(sandbox: Path) -> None:
    headers = {"GNU.sparse.size": str(1 << 62), "GNU.sparse.map": "0,0", "GNU.sparse.name": "s"}
    with pytest.raises(IntegrityError, match="has a file 's' of 4611686018427387904 bytes"):
        unpack(tar(entry("s", pax_headers=headers)), sandbox)


ORDINARY = tar(
    directory("a"),
    entry("a/b", b"x" * 600),
    symlink("l", "a"),
    entry("l/c", b"y", pax_headers={"mtime": "1.5", "SCHILY.xattr.user.k": "v"}),
    hard_link("h", "a/b"),
    entry("n" * 150, b"z"),
    entry("a/.wh.q"),
)


@settings(max_examples=150, derandomize=True, deadline=2000, database=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(ORDINARY) - 1), st.binary(min_size=1, max_size=12)),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_mutated_layers_never_reach_outside(changes: list[tuple[int, bytes]], fix: bool) -> None:
    """Whatever bytes change, the result is a tree inside or a GearError, and nothing else."""
    data = bytearray(ORDINARY)
    for place, piece in changes:
        data[place : place + len(piece)] = piece
        if fix:  # make the header of that block valid again, so that what it says is acted on
            block = place // 512 * 512
            header = bytes(data[block : block + 148]) + b" " * 8 + bytes(data[block + 156 : block + 512])
            data[block + 148 : block + 156] = b"%06o\0 " % sum(header)
    with tempfile.TemporaryDirectory() as name:
        sandbox = Path(name)
        (sandbox / "secret").write_text("untouched")
        (sandbox / "root").mkdir()
        before = outside(sandbox)
        try:
            unpack(bytes(data[: len(ORDINARY)]), sandbox)
        except GearError as error:
            assert error.message.startswith(("The layer X", "Can't unpack"))
        assert outside(sandbox) == before


@pytest.mark.spawns
def test_unpacking_agrees_with_gnu_tar(sandbox: Path) -> None:
    """Names of every kind of byte, from an archive that GNU tar wrote."""
    source = sandbox / "outside"
    for number in (1, 10, 127, 128, 200, 255):
        (source / os.fsdecode(b"n" + bytes([number]))).write_bytes(bytes([number]))
    made = subprocess.run(
        ["tar", "-C", source, "-c", "--format=posix", "."], check=True, capture_output=True
    ).stdout
    unpack(made, sandbox)
    assert snapshot(sandbox / "root") == snapshot(source)


def test_descriptors_are_not_leaked(sandbox: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    for members, _ in HOSTILE.values():
        shutil.rmtree(sandbox / "root")
        (sandbox / "root").mkdir()
        with pytest.raises(IntegrityError):
            unpack(
                tar(*members, format=tarfile.GNU_FORMAT if members[0][0].uid < 0 else tarfile.PAX_FORMAT),
                sandbox,
            )
    unpack(ORDINARY, sandbox)
    assert opened() == before


def test_a_hard_link_to_a_symlink_is_that_symlink(sandbox: Path) -> None:
    """link(2) would otherwise follow it, out of the layer and into a file of the host."""
    unpack(tar(symlink("l", str(sandbox / "secret")), hard_link("m", "l")), sandbox)
    assert os.readlink(sandbox / "root/m") == str(sandbox / "secret")
    assert (sandbox / "secret").stat().st_nlink == 1
