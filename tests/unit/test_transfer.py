"""Trees as tar streams between two directories: what arrives, and what never leaves them."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gear.copying import parse
from gear.errors import GearError, UsageError
from gear.tarstream import Archive
from gear.transfer import Packer, Unpacker


def pack(path: Path, name: str = "top") -> tuple[bytes, list[str]]:
    """The stream of *path*, and what was warned of."""
    reader, writer = os.pipe()
    parts: list[bytes] = []

    def collect() -> None:
        while data := os.read(reader, 1 << 16):
            parts.append(data)

    thread = threading.Thread(target=collect)
    thread.start()
    place, warnings = os.open(path, os.O_PATH | os.O_NOFOLLOW), list[str]()
    try:
        Packer(writer, warnings.append).pack(place, name.encode())
    finally:
        os.close(place)
        os.close(writer)
        thread.join()
        os.close(reader)
    return b"".join(parts), warnings


def unpack(data: bytes, target: Path, how: Callable[[Unpacker, int], None]) -> list[str]:
    warnings: list[str] = []
    archive = Archive(io.BytesIO(data), "the archive", limit=1 << 40)
    place = os.open(target, os.O_PATH)
    try:
        how(Unpacker(archive, warnings.append, owners=False, trusted_modes=False), place)
    finally:
        os.close(place)
    return warnings


def archive(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return stream.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def test_tree_arrives_as_it_was(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    (source / "sub" / ("long" * 40)).write_bytes(b"data" * 1000)
    (source / "set").write_text("x")
    (source / "set").chmod(0o6755)
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    os.utime(source / "sub", ns=(10**18, 10**18))
    data, warnings = pack(source)
    assert warnings == ["top/pipe is left out: it is a pipe"]
    unpack(data, target, lambda unpacker, place: unpacker.as_name(place, b"copy"))
    copy = target / "copy"
    assert (copy / "sub" / ("long" * 40)).read_bytes() == b"data" * 1000
    assert stat.S_IMODE((copy / "set").stat().st_mode) == 0o755
    assert os.readlink(copy / "link") == "/etc/passwd" and not (copy / "pipe").exists()
    assert (copy / "sub").stat().st_mtime_ns == 10**18
    # What is there is replaced, links are not written through.
    outside = tmp_path / "outside"
    outside.write_text("safe")
    (copy / "set").unlink()
    (copy / "set").symlink_to(outside)
    unpack(data, target, lambda unpacker, place: unpacker.as_name(place, b"copy"))
    assert outside.read_text() == "safe" and (copy / "set").read_text() == "x"


@pytest.mark.parametrize(
    "members",
    [
        (member("../out", size=1),),
        (member("a/../../out", size=1),),
        (member("a", tarfile.SYMTYPE, "/tmp"), member("a/out", size=1)),
        (member("a", tarfile.SYMTYPE, ".."), member("a/out", size=1)),
        (member("a", tarfile.LNKTYPE, "../../outside"),),
        (member("l", tarfile.SYMTYPE, "../../outside"), member("l/x", tarfile.DIRTYPE)),
    ],
)
def test_archives_that_want_out(members: tuple[tarfile.TarInfo, ...], tmp_path: Path) -> None:
    target = tmp_path / "a" / "target"
    target.mkdir(parents=True)
    (tmp_path / "outside").write_text("safe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(GearError):
        unpack(archive(*members), target, lambda unpacker, place: unpacker.below(place))
    made = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert all(path.is_relative_to(target) for path in made)
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_only_one_file_goes_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old and longer")
    inode = (tmp_path / "file").stat().st_ino
    unpack(
        archive(member("f", size=3)), tmp_path / "file", lambda unpacker, place: unpacker.over(place, "it")
    )
    assert (tmp_path / "file").read_text() == "xxx" and (tmp_path / "file").stat().st_ino == inode
    with pytest.raises(GearError, match="A directory can't be copied over the file it"):
        unpack(archive(member("d", tarfile.DIRTYPE)), tmp_path / "file", lambda u, place: u.over(place, "it"))


@pytest.mark.parametrize(
    ("text", "container", "path"),
    [
        ("web:/etc", "web", "/etc"),
        ("web:etc", "web", "/etc"),
        ("./web:/etc", None, "./web:/etc"),
        ("/a:b", None, "/a:b"),
        ("plain", None, "plain"),
        ("-", None, "-"),
    ],
)
def test_places(text: str, container: str | None, path: str) -> None:
    found = parse(text)
    assert (found.container, found.path) == (container, path)


@pytest.mark.parametrize("text", ["", "a\0b", "no/name:/x"])
def test_no_places(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)
