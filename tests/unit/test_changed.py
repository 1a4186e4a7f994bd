"""How trees differ: the list, and the layer, which on top of the old tree has to make the new one, byte for byte."""

from __future__ import annotations

import os
import socket
import stat
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archives import directory, entry, hard_link, symlink, tar
from hypothesis import given, settings
from hypothesis import strategies as st

from gear import changed, merged, pack
from gear.errors import GearError, UsageError
from gear.layer import extract
from gear.merged import Ids, Root

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: whiteouts, owners and trusted attributes")
TIME = 1_500_000_000


def unpacked(path: Path, archive: bytes) -> Path:
    """A layer below *path*, as the store has it."""
    path.mkdir()
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(archive)
        file.seek(0)
        extract(file, path, "The layer X", owners=ROOT)
    return path


def whole(stream: pack.Packed) -> bytes:
    return b"".join(iter(lambda: stream.read(1 << 20), b""))


def content(roots: list[Root]) -> bytes:
    """A merged tree as an archive: what is not the same in two trees is not the same here."""
    return b"".join(pack.tree(roots, pack.Writer("x", layer=False)))


def listed(old: list[Root], new: list[Root], ignored: frozenset[bytes] = frozenset()) -> list[str]:
    return [f"{change.kind} {change.path}" for change in changed.changes(old, new, "x", ignored)]


def assert_layer_makes(old: list[Root], new: list[Root], path: Path) -> bytes:
    """The layer of the differences, unpacked on top of the old tree, gives the new one; returns its archive."""
    archive = whole(changed.Layer(old, new, "x", frozenset()))
    made = Root(unpacked(path, archive))
    assert content([*old, made]) == content(new)
    assert changed.is_changed([*old, made], new, "x", frozenset()) is False
    return archive


def names_of(archive: bytes) -> list[str]:
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.seek(0)
        return tarfile.open(fileobj=file).getnames()


BASE = tar(
    directory("."),
    directory("etc"),
    entry("etc/passwd", b"root"),
    entry("etc/hosts", b"x"),
    directory("data"),
    entry("data/one", b"1"),
    entry("data/two", b"2"),
    directory("usr"),
    entry("usr/file", b"content"),
    hard_link("usr/same", "usr/file"),
    symlink("link", "usr"),
)


@pytest.fixture
def base(tmp_path: Path) -> list[Root]:
    return [Root(unpacked(tmp_path / "base", BASE))]


def upper(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Root:
    return Root(unpacked(path, tar(directory("."), *members)))


# ---- overlayfs's upper directory: only what differs


def test_nothing_differs(base: list[Root], tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    new = [*base, Root(tmp_path / "upper")]
    os.chmod(tmp_path / "upper", os.stat(base[0].path).st_mode)
    assert listed(base, new) == []
    # The time of the root directory is that of its making, and no change.
    assert changed.is_changed(base, new, "x", frozenset()) is False


@needs_root
def test_each_kind_of_change(base: list[Root], tmp_path: Path) -> None:
    new = [
        *base,
        upper(
            tmp_path / "upper",
            directory("etc"),
            entry("etc/passwd", b"changed"),
            entry("etc/.wh.hosts"),
            entry("new", b"n"),
            directory("data"),
            entry("data/.wh..wh..opq"),
            entry("data/three", b"3"),
            entry("link", b"a file now"),
            directory("made"),
            entry("made/inside", b""),
            directory("usr", mode=0o700),
        ),
    ]
    assert listed(base, new) == [
        "C /data", "D /data/one", "A /data/three", "D /data/two", "D /etc/hosts", "C /etc/passwd", "C /link",
        "A /made", "A /made/inside", "A /new", "C /usr",
    ] or listed(base, new) == [
        "C /data", "D /data/one", "A /data/three", "D /data/two", "C /etc", "D /etc/hosts", "C /etc/passwd", "C /link",
        "A /made", "A /made/inside", "A /new", "C /usr",
    ]  # fmt: skip
    found = names_of(assert_layer_makes(base, new, tmp_path / "made"))
    # Everything in data went at once, so one marker says it.
    assert "./data/.wh..wh..opq" in found and "./data/.wh.one" not in found
    assert "./etc/.wh.hosts" in found and "./usr/file" not in found


def test_parents_of_what_changed_are_told(base: list[Root], tmp_path: Path) -> None:
    new = [*base, upper(tmp_path / "upper", directory("etc"), entry("etc/passwd", b"other"))]
    assert listed(base, new) == ["C /etc", "C /etc/passwd"]


@needs_root
def test_a_file_that_becomes_a_directory_and_back(base: list[Root], tmp_path: Path) -> None:
    new = [
        *base,
        upper(tmp_path / "upper", directory("link"), entry("link/below", b"1"), entry("data", b"a file")),
    ]
    assert listed(base, new) == ["C /data", "C /link", "A /link/below"]
    assert_layer_makes(base, new, tmp_path / "made")


def test_content_is_compared_whatever_the_time_says(base: list[Root], tmp_path: Path) -> None:
    new = [*base, upper(tmp_path / "upper", directory("data"), entry("data/one", b"!"))]
    assert listed(base, new) == ["C /data", "C /data/one"]
    same = [*base, upper(tmp_path / "same", directory("data"), entry("data/one", b"1"))]
    assert listed(base, same) == []


@needs_root
def test_links_are_content(base: list[Root], tmp_path: Path) -> None:
    new = [
        *base,
        upper(
            tmp_path / "upper",
            directory("usr"),
            entry("usr/file", b"content"),
            hard_link("usr/third", "usr/file"),
        ),
    ]
    assert listed(base, new) == ["C /usr", "C /usr/file", "A /usr/third"]
    assert_layer_makes(base, new, tmp_path / "made")


def test_what_is_made_for_mounts_does_not_count(base: list[Root], tmp_path: Path) -> None:
    made = upper(
        tmp_path / "upper",
        directory("etc", mtime=TIME),
        entry("etc/resolv.conf"),
        directory("srv", mtime=TIME),
        directory("srv/data", mtime=TIME),
        directory("full", mtime=TIME),
        entry("full/file", b""),
        entry("etc/text", b"text"),
    )
    ignored = frozenset((b"./etc", b"./etc/resolv.conf", b"./srv", b"./srv/data", b"./full", b"./etc/text"))
    assert listed(base, [*base, made], ignored) == ["C /etc", "A /etc/text", "A /full", "A /full/file"]
    (made.path / "etc/text").unlink()
    (made.path / "full/file").unlink()
    assert listed(base, [*base, made], ignored) == []
    assert changed.is_changed(base, [*base, made], "x", ignored) is False


def test_ids_are_those_of_the_container(base: list[Root], tmp_path: Path) -> None:
    ids = Ids(1000, 100)
    assert [ids.inside(number) for number in (1000, 1099, 1100, 999, 0)] == [0, 99, 65534, 65534, 65534]
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *item) for item in ((1, 7, 0xFFFFFFFF), (2, 5, 1033), (8, 4, 1044), (8, 4, 5))
    )
    shown = ids.attribute("system.posix_acl_access", acl)
    assert [who for _, _, who in struct.iter_unpack("<HHI", shown[4:])] == [0xFFFFFFFF, 33, 44, 65534]
    capability = struct.pack("<IIIII", 0x03000001, 1, 2, 3, 4)
    assert ids.attribute("security.capability", capability + struct.pack("<I", 1000)) == (
        struct.pack("<IIIII", 0x02000001, 1, 2, 3, 4)
    )
    foreign = capability + struct.pack("<I", 77)
    assert ids.attribute("security.capability", foreign) == foreign
    assert ids.attribute("user.note", b"x") == b"x" and ids.attribute("system.posix_acl_access", b"") == b""


@needs_root
def test_shifted_files_come_out_unshifted(base: list[Root], tmp_path: Path) -> None:
    made = upper(tmp_path / "upper", directory("home"), entry("home/file", b"x"))
    for path, number in (("", 5000), ("home", 5033), ("home/file", 1)):
        os.chown(made.path / path, number, number)
    new = [*base, Root(made.path, Ids(5000, 65536))]
    with tempfile.TemporaryFile() as file:
        file.write(whole(changed.Layer(base, new, "x", frozenset())))
        file.seek(0)
        owners = {member.name: member.uid for member in tarfile.open(fileobj=file)}
    assert owners == {".": 0, "./home": 33, "./home/file": 65534}


# ---- a whole tree, as the drivers without overlayfs have it


@pytest.fixture
def copy(base: list[Root], tmp_path: Path) -> Path:
    return unpacked(tmp_path / "copy", BASE)


def test_a_copy_is_no_change(base: list[Root], copy: Path) -> None:
    assert listed(base, [Root(copy)]) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda top: (top / "usr/same").unlink(), ["C /usr", "D /usr/same"]),
        (lambda top: os.link(top / "usr/file", top / "third"), ["A /third", "C /usr", "C /usr/file", "C /usr/same"]),
        (lambda top: os.truncate(top / "data/one", 9), ["C /data", "C /data/one"]),
        (lambda top: (top / "etc/hosts").rename(top / "etc/hosts2"), ["C /etc", "D /etc/hosts", "A /etc/hosts2"]),
        (lambda top: (top / "usr").chmod(0o711), ["C /usr"]),
        (lambda top: os.setxattr(top / "data/two", "user.x", b"1"), ["C /data", "C /data/two"]),
    ],
)  # fmt: skip
def test_changes_of_a_copy(
    change: Callable[[Path], object], expected: list[str], base: list[Root], copy: Path, tmp_path: Path
) -> None:
    change(copy)
    assert listed(base, [Root(copy)]) == expected
    assert_layer_makes(base, [Root(copy)], tmp_path / "made")


def test_two_images(base: list[Root], tmp_path: Path) -> None:
    other = [
        Root(unpacked(tmp_path / "other", tar(directory("."), directory("etc"), entry("etc/hosts", b"x"))))
    ]
    assert listed(base, other)[:3] == ["D /data", "C /etc", "D /etc/passwd"]
    assert_layer_makes(base, other, tmp_path / "made")
    assert [line for line in listed([], base) if not line.startswith("A ")] == []
    assert content([Root(unpacked(tmp_path / "all", whole(changed.Layer([], base, "x", frozenset()))))]) == (
        content(base)
    )


_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_KINDS = st.sampled_from(["directory", "file", "link", "hard link", "mode", "remove", "pipe"])
_STEPS = st.lists(st.tuples(_KINDS, _PATHS, _PATHS, st.integers(0, 3)), max_size=14)


def do(top: Path, kind: str, path: str, other: str, number: int) -> None:
    """One change of a tree, if it can be made there."""
    place = top / path
    try:
        if kind == "directory":
            place.mkdir(parents=True)
        elif kind == "file" and not place.is_fifo():
            place.write_bytes(b"x" * number)
        elif kind == "link":
            place.symlink_to(other)
        elif kind == "hard link":
            os.link(top / other, place, follow_symlinks=False)
        elif kind == "pipe":
            os.mkfifo(place)
        elif kind == "mode":
            place.chmod(0o700 + number, follow_symlinks=True) if not place.is_symlink() else None
        elif place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink()
        if place.exists() and not place.is_symlink():
            os.utime(place, ns=(0, TIME * 10**9 + number))
    except (OSError, NotImplementedError):
        pass


@settings(max_examples=150)
@given(_STEPS, _STEPS)
def test_the_layer_makes_the_new_tree_of_any_old_one(
    before: list[tuple[str, str, str, int]], after: list[tuple[str, str, str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        old, new = Path(directory, "old"), Path(directory, "new")
        for top, steps in ((old, before), (new, [*before, *after])):
            top.mkdir()
            for step in steps:
                do(top, *step)
            os.utime(top, ns=(0, TIME * 10**9))
        if changed.is_changed([Root(old)], [Root(new)], "x", frozenset()):
            assert_layer_makes([Root(old)], [Root(new)], Path(directory, "made"))
        assert listed([Root(old)], [Root(old)]) == []
        # The same again is the same archive.
        assert whole(changed.Layer([Root(old)], [Root(new)], "x", frozenset())) == (
            whole(changed.Layer([Root(old)], [Root(new)], "x", frozenset()))
        )


# ---- hostile trees, and trees that somebody writes to


def test_a_name_that_would_be_a_whiteout_is_refused_in_a_layer_only(base: list[Root], tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/.wh.etc").write_bytes(b"")
    new = [*base, Root(tmp_path / "upper")]
    assert listed(base, new) == ["A /.wh.etc"]
    with pytest.raises(UsageError, match=r"the name '\./\.wh\.etc' would be a whiteout"):
        whole(changed.Layer(base, new, "x", frozenset()))
    assert "./.wh.etc" in names_of(content(new))


def test_a_tree_without_end_is_refused(base: list[Root], tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    place = os.open(tmp_path / "upper", os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    new = [*base, Root(tmp_path / "upper")]
    for work in (lambda: listed(base, new), lambda: content(new)):
        with pytest.raises(GearError, match="x has directories that are nested too deep, at '\\./d/d"):
            work()


def test_nothing_outside_is_read_and_nothing_is_waited_for(base: list[Root], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    top = tmp_path / "upper"
    top.mkdir()
    (top / "etc").symlink_to("../secret")
    (top / "data").symlink_to("..")
    os.mkfifo(top / "usr")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(top / "socket"))
    new = [*base, Root(top)]
    assert listed(base, new) == ["C /data", "C /etc", "A /socket", "C /usr"]
    archive = whole(changed.Layer(base, new, "x", frozenset()))
    assert b"secret\0" not in archive.replace(b"../secret", b"")
    assert names_of(archive) == [".", "./data", "./etc", "./usr"]


@needs_root
def test_a_socket_hides_what_was_there(base: list[Root], tmp_path: Path) -> None:
    top = tmp_path / "upper"
    top.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(top / "data"))
    archive = whole(changed.Layer(base, [*base, Root(top)], "x", frozenset()))
    assert names_of(archive) == [".", "./.wh.data"]


class _Meanwhile:
    """Does something the first time that the reader asks for more than a header."""

    def __init__(self, pieces: Iterator[bytes], work: Callable[[], object]) -> None:
        self.out = b""
        for number, piece in enumerate(pieces):
            if number == 0:
                work()
            self.out += piece


def test_what_goes_while_it_is_read_is_left_out(base: list[Root], tmp_path: Path) -> None:
    top = base[0].path

    def change() -> None:
        (top / "etc/hosts").unlink()
        (top / "link").unlink()
        (top / "link").write_bytes(b"no link any more")
        (top / "data/one").unlink()
        (top / "data/one").symlink_to("/etc/passwd")

    out = _Meanwhile(pack.tree(base, pack.Writer("x")), change).out
    assert "./etc/hosts" not in names_of(out) and "./etc/passwd" in names_of(out)


def test_a_file_that_shrinks_is_an_error_unless_somebody_is_told(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    size = 3 * pack.CHUNK
    (top / "log").write_bytes(b"x" * size)

    def read(writer: pack.Writer) -> bytes:
        out = b""
        os.truncate(top / "log", size)
        for piece in pack.tree([Root(top)], writer):
            out += piece
            if len(piece) == pack.CHUNK:
                os.truncate(top / "log", pack.CHUNK)
        return out

    with pytest.raises(GearError, match=r"'\./log' became shorter while it was read"):
        read(pack.Writer("x"))
    (top / "log").write_bytes(b"x" * size)
    told: list[str] = []
    out = read(pack.Writer("x", torn=told.append))
    assert told == ["'./log' became shorter while it was read; the rest is zeros"]
    with tempfile.TemporaryFile() as file:
        file.write(out)
        file.seek(0)
        archive = tarfile.open(fileobj=file)
        reader = archive.extractfile("./log")
        assert reader is not None and reader.read() == b"x" * pack.CHUNK + bytes(2 * pack.CHUNK)


# ---- archives


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 1)],
        [(5 << 20, 100)],
        [(0, 4096), (9 << 20, 4096)],
        [(3 << 20, 10), (4 << 20, 10), (20 << 20, 1)],
        [],
    ],
)
@pytest.mark.parametrize("tail", [0, 1, 7 << 20])
def test_large_holes_stay_holes(pieces: list[tuple[int, int]], tail: int, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    with open(top / "sparse", "wb") as file:
        for offset, length in pieces:
            file.seek(offset)
            file.write(b"d" * length)
        file.truncate((pieces[-1][0] + pieces[-1][1] if pieces else 0) + tail)
    archive = content([Root(top)])
    assert len(archive) < (4 << 20) + 10_000
    made = unpacked(tmp_path / "made", archive)
    assert (made / "sparse").read_bytes() == (top / "sparse").read_bytes()
    # tarfile reads it as well.
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.seek(0)
        reader = tarfile.open(fileobj=file).extractfile("./sparse")
        assert reader is not None and reader.read() == (top / "sparse").read_bytes()


def test_long_names_hide_as_well(tmp_path: Path) -> None:
    name = "n" * 250
    old = Root(
        unpacked(
            tmp_path / "old", tar(directory("."), directory("d" * 200), entry("d" * 200 + "/" + name, b"x"))
        )
    )
    empty = Root(unpacked(tmp_path / "new", tar(directory("."), directory("d" * 200))))
    assert f"./{'d' * 200}/.wh.{name}" in names_of(whole(changed.Layer([old], [empty], "x", frozenset())))


def test_an_attribute_no_archive_can_hold_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.setxattr(tmp_path / "file", "user.a=b", b"1")
    os.setxattr(tmp_path / "file", "user.c", b"2")
    with merged.opened([Root(tmp_path)]) as top, merged.looked_up(top, b"file") as found:
        assert found is not None and stat.S_ISREG(found.status.st_mode)
        assert found.attributes() == {"user.c": b"2"}
