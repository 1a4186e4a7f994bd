"""Whether two unpacked layers are the same, file by file: what is on the disk beside what its blob unpacks to.

Not for trees that containers write to.  Compared are type, content, mode, owner, time, hard links, devices with
whiteouts among them, targets of symlinks, and the extended attributes that a layer can have or that steer overlayfs.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gear.layer import kept
from gear.tree import DIRECTORY, is_whiteout

CHUNK = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def differences(expected: Path, found: Path, *, made_ns: int) -> Iterator[str]:
    """What is different in *found*, a line for each file.

    Times are not compared of what nobody gave one: whiteouts, and directories that the archive does not list.  The
    latter have the time at which *expected* was unpacked, which began at *made_ns* by the clock of the file system.
    """
    first, second = os.open(expected, DIRECTORY), os.open(found, DIRECTORY)
    try:
        yield from _Comparison(made_ns).directories(first, second, "/")
    finally:
        os.close(first)
        os.close(second)


class _Comparison:
    """One run; links remember the first path of each file with several names, on both sides."""

    def __init__(self, made_ns: int) -> None:
        self._made_ns = made_ns
        self._links: tuple[dict[tuple[int, int], str], dict[tuple[int, int], str]] = ({}, {})

    def directories(self, expected: int, found: int, path: str) -> Iterator[str]:
        """Two open directories and all that is below them."""
        status = os.fstat(expected)
        timed = status.st_mtime_ns < self._made_ns
        yield from _attributes(path, status, os.fstat(found), timed=timed)
        yield from _xattrs(
            path, os.fspath(f"/proc/self/fd/{expected}"), f"/proc/self/fd/{found}", follow=True
        )
        ours, theirs = set(os.listdir(expected)), set(os.listdir(found))
        for name in sorted(ours - theirs):
            yield f"{_shown(path + name)} is missing"
        for name in sorted(theirs - ours):
            yield f"{_shown(path + name)} does not belong there"
        for name in sorted(ours & theirs):
            yield from self._entries(expected, found, name, path + name)

    def _entries(self, expected: int, found: int, name: str, path: str) -> Iterator[str]:
        before = os.lstat(name, dir_fd=expected)
        after = os.lstat(name, dir_fd=found)
        if stat.S_IFMT(before.st_mode) != stat.S_IFMT(after.st_mode):
            yield f"{_shown(path)} is of another type"
            return
        if stat.S_ISDIR(before.st_mode):
            below = os.open(name, DIRECTORY, dir_fd=expected), os.open(name, DIRECTORY, dir_fd=found)
            try:
                yield from self.directories(*below, path + "/")
            finally:
                for descriptor in below:
                    os.close(descriptor)
            return
        yield from _attributes(path, before, after, timed=not is_whiteout(before))
        places = f"/proc/self/fd/{expected}/{name}", f"/proc/self/fd/{found}/{name}"
        yield from _xattrs(path, *places, follow=False)
        yield from self._hard_links(path, before, after)
        if stat.S_ISLNK(before.st_mode):
            if os.readlink(name, dir_fd=expected) != os.readlink(name, dir_fd=found):
                yield f"{_shown(path)} leads elsewhere"
        elif stat.S_ISREG(before.st_mode):
            if before.st_size != after.st_size:
                yield f"{_shown(path)} has {after.st_size} bytes instead of {before.st_size}"
            elif not _same_content(expected, found, name):
                yield f"{_shown(path)} has another content"
        elif before.st_rdev != after.st_rdev:
            yield f"{_shown(path)} is another device"

    def _hard_links(self, path: str, before: os.stat_result, after: os.stat_result) -> Iterator[str]:
        firsts = []
        for links, status in zip(self._links, (before, after), strict=True):
            firsts.append(
                links.setdefault((status.st_dev, status.st_ino), path) if status.st_nlink > 1 else path
            )
        if firsts[0] != firsts[1] or before.st_nlink != after.st_nlink:
            yield f"{_shown(path)} has other hard links"


def _shown(path: str) -> str:
    return ascii(path[:200])


def _attributes(path: str, before: os.stat_result, after: os.stat_result, *, timed: bool) -> Iterator[str]:
    if before.st_mode != after.st_mode:
        yield f"{_shown(path)} has the mode {after.st_mode & 0o7777:04o} instead of {before.st_mode & 0o7777:04o}"
    if (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid):
        yield (
            f"{_shown(path)} belongs to {after.st_uid}:{after.st_gid} instead of {before.st_uid}:{before.st_gid}"
        )
    if timed and before.st_mtime_ns != after.st_mtime_ns:
        yield f"{_shown(path)} has another time"


def _xattrs(path: str, expected: str, found: str, *, follow: bool) -> Iterator[str]:
    if _attributes_of(expected, follow=follow) != _attributes_of(found, follow=follow):
        yield f"{_shown(path)} has other extended attributes"


def _attributes_of(place: str, *, follow: bool) -> dict[str, bytes]:
    """Those that a layer can have, and those of overlayfs; the host may have set others, such as security.selinux."""
    try:
        return {
            name: os.getxattr(place, name, follow_symlinks=follow)
            for name in os.listxattr(place, follow_symlinks=follow)
            if kept(name) or name.startswith(("trusted.overlay.", "user.overlay."))
        }
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise


def _same_content(expected: int, found: int, name: str) -> bool:
    first = os.open(name, _FILE, dir_fd=expected)
    second = os.open(name, _FILE, dir_fd=found)
    try:
        while data := os.read(first, CHUNK):
            place = memoryview(data)
            while place:
                piece = os.read(second, len(place))
                if not piece or place[: len(piece)] != piece:
                    return False
                place = place[len(piece) :]
        return True
    finally:
        os.close(first)
        os.close(second)
