"""A merged tree, or what is in one, as a tar stream that is the same each time the tree is.

Not an extractor (gear/layer.py).  Names are sorted; times, owners, modes, hard links, devices, extended attributes and
large holes are kept; sockets are left out.  Everything beyond plain ustar goes into PAX records.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gear.errors import GearError, UsageError
from gear.files import explained
from gear.merged import VANISHED, Bound, Node, Root, attributes, looked_up, names, opened
from gear.tarstream import BLOCK

CHUNK = 1 << 20
# A hole of this many bytes stays one; so no file that a layer may have has more pieces than a reader allows.
HOLE = 1 << 20
FLAGS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
# What stands before the name of a file that is hidden, in a layer's archive.
WHITEOUT = b".wh."


class Packed:
    """A tar stream that is made while it is read, like a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def directory(root: Path) -> Packed:
    """The directory *root* of the host as a layer."""
    return Packed(tree([Root(root)], Writer(str(root))))


def tree(roots: Sequence[Root], writer: Writer) -> Iterator[bytes]:
    """The merged tree of *roots*, lowest first, as a whole archive."""
    if roots:
        with opened(roots) as root, explained(f"read {writer.what}"):
            yield from _below(root, b"./", writer)
    yield bytes(2 * BLOCK)


def _below(node: Node, path: bytes, writer: Writer) -> Iterator[bytes]:
    """A directory and what is in it, depth first."""
    yield from writer.entry(node, path)
    for name in names(node):
        with looked_up(node, name) as found:
            if found is None:
                continue
            if found.is_directory:
                yield from _below(found, path + name + b"/", writer)
            else:
                yield from writer.entry(found, path + name)


class Writer:
    """Makes entries; knows the first name of each file with several.

    In a *layer* a name is refused that would be a whiteout there.  *torn* is told of files that became shorter while
    they were read, whose rest is zeros; without it that is an error.
    """

    def __init__(self, what: str, *, layer: bool = True, torn: Callable[[str], None] | None = None) -> None:
        self.what = what
        self._layer, self._torn = layer, torn
        self._links: dict[tuple[int, int], bytes] = {}
        self._bound = Bound(what)

    def entry(self, node: Node, path: bytes) -> Iterator[bytes]:
        """*node* under the name *path*, which ends in a slash for a directory; nothing for what is gone by now."""
        name = path.rstrip(b"/").rpartition(b"/")[2]
        if self._layer and name.startswith(WHITEOUT):
            raise UsageError(
                f"{self.what} can't become a layer: the name {_shown(path)} would be a whiteout."
            )
        self._bound.check(path)
        status = node.status
        if node.is_directory:
            yield header(path, b"5", status, owner=node.owner, xattrs=node.attributes())
            return
        first = self._links.get(node.file) if status.st_nlink > 1 else None
        if first is not None:
            yield header(path, b"1", status, owner=node.owner, target=first)
            return
        try:
            if stat.S_ISREG(status.st_mode):
                descriptor = node.open()
            elif stat.S_ISLNK(status.st_mode):
                yield header(path, b"2", status, owner=node.owner, target=node.target())
            elif not stat.S_ISSOCK(status.st_mode):
                flag = FLAGS[stat.S_IFMT(status.st_mode)]
                yield header(path, flag, status, owner=node.owner, xattrs=node.attributes())
        except OSError as error:
            if error.errno not in VANISHED:
                raise
            return
        if status.st_nlink > 1 and not stat.S_ISSOCK(status.st_mode):
            self._links[node.file] = path
        if stat.S_ISREG(status.st_mode):
            try:
                yield from self._regular(node, path, descriptor)
            finally:
                os.close(descriptor)

    def _regular(self, node: Node, path: bytes, descriptor: int) -> Iterator[bytes]:
        """The header and the content of an open file."""
        status = os.fstat(descriptor)
        size, xattrs = status.st_size, attributes(descriptor, node.ids, node.literal)
        pieces, sparse = _pieces(descriptor, size), b""
        owner = node.ids.inside(status.st_uid), node.ids.inside(status.st_gid)
        records: list[tuple[bytes, bytes]] = []
        if pieces != [(0, size)]:
            numbers = [len(pieces), *(number for piece in pieces for number in piece)]
            sparse = b"".join(b"%d\n" % number for number in numbers)
            sparse += bytes(-len(sparse) % BLOCK)
            records = [
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", path),
                (b"GNU.sparse.realsize", b"%d" % size),
            ]
        else:
            pieces = [(0, size)]
        stored = len(sparse) + sum(length for _, length in pieces)
        yield header(path, b"0", status, owner=owner, size=stored, xattrs=xattrs, records=records) + sparse
        for offset, length in pieces:
            yield from self._piece(path, descriptor, offset, length)
        yield bytes(-stored % BLOCK)

    def _piece(self, path: bytes, descriptor: int, offset: int, length: int) -> Iterator[bytes]:
        while length:
            data = os.pread(descriptor, min(CHUNK, length), offset)
            if not data:
                if self._torn is None:
                    raise GearError(
                        f"{_shown(path)} became shorter while it was read.", hint="Run the command again."
                    )
                self._torn(f"{_shown(path)} became shorter while it was read; the rest is zeros")
                while length:
                    length -= (size := min(CHUNK, length))
                    yield bytes(size)
                return
            offset, length = offset + len(data), length - len(data)
            yield data


def _pieces(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Where a file has data: offset and length of each piece, and one that is empty at the end if a hole is there."""
    pieces: list[tuple[int, int]] = []
    reached, end = 0, 0
    while (start := _next_data(descriptor, reached, size)) < size:
        reached = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if pieces and start - end < HOLE or not pieces and start < HOLE:
            offset = pieces.pop()[0] if pieces else 0
            pieces.append((offset, reached - offset))
        else:
            pieces.append((start, reached - start))
        end = reached
    if size - end < HOLE:
        offset = pieces.pop()[0] if pieces else end
        pieces.append((offset, size - offset))
    else:
        pieces.append((size, 0))
    return pieces


def _next_data(descriptor: int, offset: int, size: int) -> int:
    """Where data begins at or after *offset*; *size* when only a hole is left."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def whiteout(path: bytes) -> bytes:
    """The entry that hides *path* of lower layers."""
    above, _, name = path.rpartition(b"/")
    return marker(above + b"/" + WHITEOUT + name)


def marker(path: bytes) -> bytes:
    """An empty file whose name is all that it means."""
    records = _record(b"path", path) if len(path) > 100 else b""
    return _extended(records) + _ustar(path[:100], b"0", 0, 0)


def _shown(path: bytes) -> str:
    """A path for a message."""
    return ascii(path[:200].decode("utf-8", "backslashreplace"))


def header(
    path: bytes,
    flag: bytes,
    status: os.stat_result,
    *,
    owner: tuple[int, int] | None = None,
    size: int = 0,
    target: bytes = b"",
    xattrs: Mapping[str, bytes] | None = None,
    records: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """The blocks before an entry's data: PAX records for what ustar can't hold, then ustar.

    *owner* are other ids than those of *status*, *records* further PAX records.
    """
    records = list(records)
    user, group = owner or (status.st_uid, status.st_gid)
    if len(path) > 100:
        records.append((b"path", path))
    if len(target) > 100:
        records.append((b"linkpath", target))
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    if nanoseconds or not 0 <= seconds < 8**11:
        sign, whole = ("-", -status.st_mtime_ns) if status.st_mtime_ns < 0 else ("", status.st_mtime_ns)
        records.append((b"mtime", b"%s%d.%09d" % (sign.encode(), *divmod(whole, 10**9))))
    for keyword, number, limit in (
        (b"uid", user, 8**7),
        (b"gid", group, 8**7),
        (b"size", size, 8**11),
    ):
        if number >= limit:
            records.append((keyword, b"%d" % number))
    records += [(b"SCHILY.xattr." + os.fsencode(name), value) for name, value in (xattrs or {}).items()]
    data = b"".join(_record(keyword, value) for keyword, value in records)
    return _extended(data) + _ustar(
        path[:100],
        flag,
        stat.S_IMODE(status.st_mode),
        size,
        owner=(user, group),
        seconds=seconds,
        target=target[:100],
        device=status.st_rdev if flag in (b"3", b"4") else 0,
    )


def _extended(records: bytes) -> bytes:
    """PAX records as the entry before the one that they belong to."""
    if not records:
        return b""
    return _ustar(b"./PaxHeaders", b"x", 0o644, len(records)) + records + bytes(-len(records) % BLOCK)


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
