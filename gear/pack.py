"""A directory of the host as a layer: a tar stream that is the same each time the directory is.

Not an extractor (gear/layer.py).  Names are sorted; times, owners, modes, hard links, devices and extended
attributes are kept; sockets are left out.  Everything beyond plain ustar goes into PAX records.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gear.errors import GearError, UsageError
from gear.files import explain
from gear.layer import kept
from gear.tarstream import BLOCK
from gear.tree import DIRECTORY

CHUNK = 1 << 20
FLAGS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


class Packed:
    """The tar stream of a directory, to be read like a file."""

    def __init__(self, root: Path) -> None:
        self._pieces = _archive(root)
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _archive(root: Path) -> Iterator[bytes]:
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise explain(error, f"read {root}") from error
    try:
        yield from _directory(descriptor, b"./", root, {})
    except OSError as error:
        raise explain(error, f"read {root}") from error
    finally:
        os.close(descriptor)
    yield bytes(2 * BLOCK)


def _directory(
    descriptor: int, path: bytes, root: Path, links: dict[tuple[int, int], bytes]
) -> Iterator[bytes]:
    """The directory itself, then what is in it, depth first.

    *links* has the first name of each file with several.
    """
    status = os.fstat(descriptor)
    yield header(path, b"5", status, xattrs=_xattrs(descriptor))
    for name in sorted(os.fsencode(name) for name in os.listdir(descriptor)):
        below = path + name
        if name.startswith(b".wh."):
            raise UsageError(f"{root} can't become a layer: the name {ascii(below)} would be a whiteout.")
        status = os.lstat(name, dir_fd=descriptor)
        if stat.S_ISDIR(status.st_mode):
            child = os.open(name, DIRECTORY, dir_fd=descriptor)
            try:
                yield from _directory(child, below + b"/", root, links)
            finally:
                os.close(child)
        elif not stat.S_ISSOCK(status.st_mode):
            first = links.setdefault((status.st_dev, status.st_ino), below) if status.st_nlink > 1 else below
            if first != below:
                yield header(below, b"1", status, target=first)
            else:
                yield from _file(descriptor, name, below, status)


def _file(parent: int, name: bytes, path: bytes, status: os.stat_result) -> Iterator[bytes]:
    """Anything but a directory."""
    if stat.S_ISLNK(status.st_mode):
        yield header(path, b"2", status, target=os.readlink(name, dir_fd=parent))
        return
    if not stat.S_ISREG(status.st_mode):
        yield header(path, FLAGS[stat.S_IFMT(status.st_mode)], status)
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        status = os.fstat(descriptor)
        yield header(path, b"0", status, size=status.st_size, xattrs=_xattrs(descriptor))
        remaining = status.st_size
        while remaining:
            data = os.read(descriptor, min(CHUNK, remaining))
            if not data:
                raise GearError(
                    f"{ascii(path)} became shorter while it was read.", hint="Run the command again."
                )
            remaining -= len(data)
            yield data
        yield bytes(-status.st_size % BLOCK)
    finally:
        os.close(descriptor)


def _xattrs(descriptor: int) -> dict[str, bytes]:
    """The attributes of an open file that a layer may have."""
    return {name: os.getxattr(descriptor, name) for name in sorted(os.listxattr(descriptor)) if kept(name)}


def header(
    path: bytes,
    flag: bytes,
    status: os.stat_result,
    *,
    size: int = 0,
    target: bytes = b"",
    xattrs: dict[str, bytes] | None = None,
) -> bytes:
    """The blocks before an entry's data: PAX records for what ustar can't hold, then ustar."""
    records: list[tuple[bytes, bytes]] = []
    if len(path) > 100:
        records.append((b"path", path))
    if len(target) > 100:
        records.append((b"linkpath", target))
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    if nanoseconds or not 0 <= seconds < 8**11:
        sign, whole = ("-", -status.st_mtime_ns) if status.st_mtime_ns < 0 else ("", status.st_mtime_ns)
        records.append((b"mtime", b"%s%d.%09d" % (sign.encode(), *divmod(whole, 10**9))))
    for keyword, number, limit in (
        (b"uid", status.st_uid, 8**7),
        (b"gid", status.st_gid, 8**7),
        (b"size", size, 8**11),
    ):
        if number >= limit:
            records.append((keyword, b"%d" % number))
    records += [(b"SCHILY.xattr." + os.fsencode(name), value) for name, value in (xattrs or {}).items()]
    data = b"".join(_record(keyword, value) for keyword, value in records)
    extension = b""
    if data:
        extension = _ustar(b"./PaxHeaders", b"x", 0o644, len(data)) + data + bytes(-len(data) % BLOCK)
    return extension + _ustar(
        path[:100],
        flag,
        stat.S_IMODE(status.st_mode),
        size,
        owner=(status.st_uid, status.st_gid),
        seconds=seconds,
        target=target[:100],
        device=status.st_rdev if flag in (b"3", b"4") else 0,
    )


def _record(keyword: bytes, value: bytes) -> bytes:
    """`LENGTH KEYWORD=VALUE`, where the length counts its own digits."""
    rest = b" %s=%s\n" % (keyword, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _ustar(
    path: bytes,
    flag: bytes,
    mode: int,
    size: int,
    *,
    owner: tuple[int, int] = (0, 0),
    seconds: int = 0,
    target: bytes = b"",
    device: int = 0,
) -> bytes:
    """One header block; numbers too large for it are zero and stand in a PAX record."""

    def octal(number: int, width: int) -> bytes:
        return b"%0*o\0" % (width - 1, number if 0 <= number < 8 ** (width - 1) else 0)

    header = b"".join(
        (
            path.ljust(100, b"\0"),
            octal(mode, 8),
            octal(owner[0], 8),
            octal(owner[1], 8),
            octal(size, 12),
            octal(seconds, 12),
            b" " * 8,
            flag,
            target.ljust(100, b"\0"),
            b"ustar\00000",
            bytes(64),
            octal(os.major(device), 8),
            octal(os.minor(device), 8),
            bytes(167),
        )
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
