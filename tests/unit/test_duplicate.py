"""Copies of whole trees: nothing of them is lost, nothing outside them is read, ids move together."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from gear import duplicate
from gear.errors import GearError

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: owners, devices and trusted attributes")


def copied(tmp_path: Path, *, shift: int = 0) -> Path:
    """A copy of the tree `from`."""
    target = tmp_path / "to"
    target.mkdir()
    duplicate.copy_tree(tmp_path / "from", target, shift=shift)
    return target


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    return tmp_path / "from"


def test_a_tree_comes_out_as_it_was(tmp_path: Path, tree: Path) -> None:
    (tree / "sub").mkdir(mode=0o2750)
    (tree / "sub" / "a").write_bytes(b"content")
    (tree / "sub" / "a").chmod(0o4711)
    os.link(tree / "sub" / "a", tree / "b")
    (tree / "link").symlink_to("/nowhere")
    os.mkfifo(tree / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
    os.setxattr(tree / "b", "user.note", b"x")
    for path in (tree / "sub" / "a", tree / "sub", tree):
        os.utime(path, ns=(1_000_000_001, 2_000_000_003))
    os.utime(tree / "link", ns=(5, 7), follow_symlinks=False)
    target = copied(tmp_path)
    assert sorted(os.listdir(target)) == ["b", "link", "pipe", "socket", "sub"]
    assert (target / "sub" / "a").read_bytes() == b"content"
    assert (target / "b").samefile(target / "sub" / "a")
    assert os.getxattr(target / "b", "user.note") == b"x"
    assert os.readlink(target / "link") == "/nowhere"
    for name in ("b", "link", "pipe", "socket", "sub", "sub/a", "."):
        before, after = os.lstat(tree / name), os.lstat(target / name)
        assert after.st_mode == before.st_mode and after.st_mtime_ns == before.st_mtime_ns, name
        assert (after.st_uid, after.st_gid, after.st_nlink) == (before.st_uid, before.st_gid, before.st_nlink)


def test_holes_stay_holes(tmp_path: Path, tree: Path) -> None:
    with open(tree / "sparse", "wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
        file.truncate(2 << 30)
    found = copied(tmp_path) / "sparse"
    assert found.stat().st_size == 2 << 30 and found.stat().st_blocks * 512 < 1 << 20
    with open(found, "rb") as file:
        file.seek(1 << 30)
        assert file.read(3) == b"end"


@needs_root
def test_what_overlayfs_writes_is_kept(tmp_path: Path, tree: Path) -> None:
    os.mknod(tree / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tree / "opaque").mkdir()
    (tree / "link").symlink_to("x")
    os.setxattr(tree / "opaque", "trusted.overlay.opaque", b"y")
    os.setxattr(tree / "link", "trusted.overlay.origin", b"\0\1", follow_symlinks=False)
    os.setxattr(tree, "trusted.overlay.impure", b"y")
    target = copied(tmp_path)
    assert stat.S_ISCHR((target / "gone").lstat().st_mode) and (target / "gone").lstat().st_rdev == 0
    assert (target / "null").lstat().st_rdev == os.makedev(1, 3)
    assert os.getxattr(target / "opaque", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(target / "link", "trusted.overlay.origin", follow_symlinks=False) == b"\0\1"
    assert os.getxattr(target, "trusted.overlay.impure") == b"y"


@needs_root
def test_all_ids_move(tmp_path: Path, tree: Path) -> None:
    (tree / "file").write_bytes(b"x")
    (tree / "link").symlink_to("file")
    os.chown(tree / "file", 65536 + 7, 65536 + 8)
    os.chown(tree / "link", 65536 + 9, 65536 + 9, follow_symlinks=False)
    os.chown(tree, 65536, 65536)
    os.mknod(tree / "gone", stat.S_IFCHR, os.makedev(0, 0))
    # Entries: owner rw, user 65541 r, group r, mask r, others none.
    entries = [
        (1, 6, 0xFFFFFFFF),
        (2, 4, 65541),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    ]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(tree / "file", "system.posix_acl_access", acl)
    capability = struct.pack("<6I", 0x03000001, 1 << 10, 0, 0, 0, 65536)
    os.setxattr(tree / "file", "security.capability", capability)
    target = copied(tmp_path, shift=65536)
    status = (target / "file").stat()
    assert (status.st_uid, status.st_gid) == (131072 + 7, 131072 + 8)
    assert (target / "link").lstat().st_uid == 131072 + 9 and target.stat().st_uid == 131072
    # Overlayfs makes whiteouts as the host's root.
    assert (target / "gone").lstat().st_uid == 0
    assert os.getxattr(target / "file", "security.capability")[20:] == struct.pack("<I", 131072)
    assert struct.pack("<HHI", 2, 4, 131077) in os.getxattr(target / "file", "system.posix_acl_access")
    back = tmp_path / "back"
    back.mkdir()
    duplicate.copy_tree(target, back, shift=-65536)
    assert os.getxattr(back / "file", "system.posix_acl_access") == acl
    assert os.getxattr(back / "file", "security.capability") == capability


@needs_root
def test_ids_of_nobody_are_an_error(tmp_path: Path, tree: Path) -> None:
    with pytest.raises(GearError, match=r"the id 0 in it is no container's"):
        copied(tmp_path, shift=-65536)


def test_nothing_is_copied_over_something(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").write_text("x")
    with pytest.raises(GearError, match="is not empty"):
        duplicate.copy_tree(tree, tmp_path / "to")


def test_a_directory_that_is_replaced_by_a_link_is_not_followed(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of the source swaps it between two looks."""
    (tree / "sub").mkdir()
    (tmp_path / "secret").mkdir()
    really = os.lstat

    def swapping(path: bytes, *, dir_fd: int) -> os.stat_result:
        status = really(path, dir_fd=dir_fd)
        os.rmdir(tree / "sub")
        os.symlink(tmp_path / "secret", tree / "sub")
        return status

    monkeypatch.setattr("gear.duplicate.os.lstat", swapping)
    with pytest.raises(GearError, match="Not a directory"):
        copied(tmp_path)


def test_a_tree_without_end_is_refused(tmp_path: Path, tree: Path) -> None:
    directory = os.open(tree, os.O_RDONLY)
    for _ in range(duplicate.DEPTH + 1):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    with pytest.raises(GearError, match=f"more than {duplicate.DEPTH} directories deep"):
        copied(tmp_path)


def test_content_is_copied_where_it_can_t_be_shared(tmp_path: Path) -> None:
    """/dev/shm is another file system than any that knows FICLONE."""
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    target = Path("/dev/shm") / f"gear-{os.getpid()}"
    with open(tmp_path / "a", "rb") as source:
        try:
            with open(target, "wb") as copy:
                assert not duplicate.copy_content(source.fileno(), copy.fileno(), 100_000)
            assert target.read_bytes() == b"x" * 100_000
        finally:
            target.unlink()
