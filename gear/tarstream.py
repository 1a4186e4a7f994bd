"""A reader of tar streams that trusts nothing: ustar, GNU and PAX headers, in one forward pass.

Not an extractor (gear/layer.py), and no writer.  It exists beside tarfile because that parser ends silently
at a damaged header in the middle of an archive, reads a PAX header of any size into memory, and takes
quadratic time for some (Python 3.11.2, regular expressions in TarInfo._proc_pax).  Names stay bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gear.compression import Reader
from gear.errors import IntegrityError

BLOCK = 512
CHUNK = 1 << 20
# One PAX header or GNU long name; Linux allows 64 KiB of extended attributes on most file systems.
HEADER_LIMIT = 1 << 20
# How many such headers may precede one entry: x, L and K once each, and a global one.
HEADER_CHAIN = 8
SPARSE_LIMIT = 1 << 16

KINDS = {
    b"\0": "file",
    b"0": "file",
    b"7": "file",
    b"S": "file",
    b"1": "hard link",
    b"2": "symlink",
    b"3": "character device",
    b"4": "block device",
    b"5": "directory",
    b"6": "fifo",
}


@dataclass(slots=True)
class Entry:
    """One member of an archive; what it says is checked for form only."""

    name: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    # Apparent size of a file, and how many bytes of it are in the archive.
    size: int
    stored: int
    target: bytes
    device: tuple[int, int]
    xattrs: dict[str, bytes] = field(default_factory=dict)
    # (offset, length) of the data of a sparse file.
    sparse: list[tuple[int, int]] | None = None

    def shown(self) -> str:
        """The name for a message."""
        return ascii(self.name[:200].decode("utf-8", "backslashreplace"))


class Archive:
    """Iterates over the entries of a tar stream and hands out the data of the current one.

    Everything read is counted against *limit* and hashed: digest() is that of the whole stream after drain().
    With *skip*, which moves the stream forward, what nobody asks for is not read, and there is no digest.
    """

    def __init__(
        self,
        stream: Reader,
        what: str,
        *,
        limit: int,
        skip: Callable[[int], None] | None = None,
        algorithm: str = "sha256",
    ) -> None:
        self._stream, self._what, self._limit = stream, what, limit
        self._seek = skip
        self._hash = hashlib.new(algorithm)
        self.position = 0
        # Bytes of the current entry not yet read, and the padding after them.
        self._remaining = 0
        self._padding = 0

    def fail(self, problem: str) -> IntegrityError:
        """The error that this archive has *problem*."""
        return IntegrityError(f"{self._what} {problem}.")

    def __iter__(self) -> Iterator[Entry]:
        while True:
            self._skip(self._remaining + self._padding)
            self._remaining = self._padding = 0
            entry = self._entry()
            if entry is None:
                return
            yield entry

    def chunks(self) -> Iterator[bytes]:
        """What is left of the current entry's stored data."""
        while self._remaining:
            data = self._some(min(CHUNK, self._remaining))
            self._remaining -= len(data)
            yield data

    def drain(self) -> None:
        """Read to the end of the stream; what follows the end of the archive counts for its digest."""
        while data := self._stream.read(CHUNK):
            self._count(data)

    def digest(self) -> str:
        """The digest of what was read so far, by the algorithm that was asked for."""
        return f"{self._hash.name}:{self._hash.hexdigest()}"

    def _count(self, data: bytes) -> None:
        self.position += len(data)
        self._hash.update(data)
        if self.position > self._limit:
            raise self.fail(f"is larger than {self._limit} bytes when unpacked")

    def _some(self, size: int) -> bytes:
        data = self._stream.read(size)
        if not data:
            raise self.fail("is cut off: it ends in the middle of an entry")
        self._count(data)
        return data

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._some(size)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        if self._seek is not None and size:
            self._seek(size)
            self.position += size
            return
        while size:
            size -= len(self._some(min(CHUNK, size)))

    def _block(self) -> bytes | None:
        """The next block that is not the end of the archive."""
        first = self._stream.read(BLOCK)
        if not first:
            # GNU tar and Go's reader accept an archive without end blocks, but nothing at all is no archive.
            if self.position == 0:
                raise self.fail("is empty, not a tar archive")
            return None
        self._count(first)
        block = first if len(first) == BLOCK else first + self._exactly(BLOCK - len(first))
        return block if block.count(0) != BLOCK else None

    def _extension(self, header: bytes) -> bytes:
        size = self._number(header[124:136])
        if size > HEADER_LIMIT:
            raise self.fail(f"has a header of {size} bytes, more than the {HEADER_LIMIT} allowed")
        data = self._exactly(size)
        self._skip(-size % BLOCK)
        return data

    def _entry(self) -> Entry | None:
        """Read headers up to and with that of the next entry."""
        records: list[tuple[bytes, bytes]] = []
        name = target = None
        for _ in range(HEADER_CHAIN):
            header = self._block()
            if header is None:
                if records or name is not None or target is not None:
                    raise self.fail("is cut off: a header has no entry")
                return None
            self._verify(header)
            flag = header[156:157]
            if flag in (b"x", b"X"):
                records = self._records(self._extension(header))
            elif flag == b"g":
                # Ignored as by Go's archive/tar, which most images are written and read with.
                self._extension(header)
            elif flag == b"L":
                name = self._extension(header).rstrip(b"\0")
            elif flag == b"K":
                target = self._extension(header).rstrip(b"\0")
            else:
                return self._finish(header, records, name, target)
        raise self.fail(f"has more than {HEADER_CHAIN} headers for one entry")

    def _verify(self, header: bytes) -> None:
        """Compare the checksum; some old writers summed signed bytes."""
        stated = self._number(header[148:156])
        unsigned = sum(header) - sum(header[148:156]) + 8 * 32
        if stated != unsigned:
            signed = unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
            if stated != signed:
                raise self.fail(
                    f"is damaged: the header at byte {self.position - BLOCK} has a wrong checksum"
                )

    def _number(self, field: bytes) -> int:
        """A number in octal digits or, with the first bit set, in base 256."""
        if field[0] in (0x80, 0xFF):
            value = int.from_bytes(field[1:], "big")
            return value if field[0] == 0x80 else value - (1 << 8 * (len(field) - 1))
        try:
            return int(field.partition(b"\0")[0].strip() or b"0", 8)
        except ValueError:
            raise self.fail(f"is damaged: a header before byte {self.position} holds no number") from None

    def _records(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The `LENGTH KEYWORD=VALUE` records of a PAX header."""
        result = []
        place = 0
        while place < len(data):
            # A length has at most seven digits within HEADER_LIMIT, so nothing here scans far.
            space = data.find(b" ", place, place + 8)
            digits = data[place:space] if space > 0 else b""
            end = place + int(digits) if digits.isdigit() else 0
            equals = data.find(b"=", space, end)
            if not space < equals < end <= len(data) or data[end - 1] != 0x0A:
                raise self.fail(f"is damaged: the PAX header before byte {self.position} is malformed")
            result.append((data[space + 1 : equals], data[equals + 1 : end - 1]))
            place = end
        return result

    def _finish(
        self, header: bytes, records: list[tuple[bytes, bytes]], name: bytes | None, target: bytes | None
    ) -> Entry:
        """The entry from its own header and what preceded it."""
        flag = header[156:157]
        if flag not in KINDS:
            raise self.fail(f"has an entry of the unknown type {ascii(chr(flag[0]))}")
        own = header[:100].partition(b"\0")[0]
        # The prefix exists in POSIX's format only; GNU's has times there ("ustar" without NUL, two blanks).
        if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
            own = prefix + b"/" + own
        entry = Entry(
            name=own if name is None else name,
            kind=KINDS[flag],
            mode=self._number(header[100:108]) & 0o7777,
            uid=self._number(header[108:116]),
            gid=self._number(header[116:124]),
            mtime_ns=self._number(header[136:148]) * 10**9,
            size=self._number(header[124:136]),
            stored=0,
            target=header[157:257].partition(b"\0")[0] if target is None else target,
            device=(0, 0),
        )
        if entry.kind in ("character device", "block device"):
            entry.device = (self._number(header[329:337]), self._number(header[337:345]))
        sparse = _Sparse()
        for keyword, value in records:
            self._apply(entry, sparse, keyword, value)
        if flag in (b"\0", b"0") and entry.name.endswith(b"/"):
            # The oldest tar had no type for directories.
            entry.kind = "directory"
        if entry.kind != "file":
            entry.size = 0
        if entry.size < 0:
            raise self.fail(f"has an entry {entry.shown()} of negative size")
        entry.stored = self._remaining = entry.size
        self._padding = -entry.size % BLOCK
        if flag == b"S":
            self._old_sparse(entry, header)
        elif entry.kind == "file" and sparse.used:
            self._pax_sparse(entry, sparse)
        return entry

    def _apply(self, entry: Entry, sparse: _Sparse, keyword: bytes, value: bytes) -> None:
        """What one PAX record says about *entry*."""
        if keyword == b"path":
            entry.name = value
        elif keyword == b"linkpath":
            entry.target = value
        elif keyword == b"size":
            entry.size = self._decimal(value)
        elif keyword == b"uid":
            entry.uid = self._decimal(value)
        elif keyword == b"gid":
            entry.gid = self._decimal(value)
        elif keyword == b"mtime":
            entry.mtime_ns = self._time(value)
        elif keyword.startswith(b"SCHILY.xattr."):
            entry.xattrs[keyword[13:].decode("utf-8", "surrogateescape")] = value
        elif keyword.startswith(b"GNU.sparse."):
            sparse.used = True
            if keyword == b"GNU.sparse.name":
                sparse.name = value
            elif keyword in (b"GNU.sparse.size", b"GNU.sparse.realsize"):
                sparse.size = self._decimal(value)
            elif keyword == b"GNU.sparse.major":
                sparse.major = value
            elif keyword in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                sparse.numbers.append(self._decimal(value))
            elif keyword == b"GNU.sparse.map":
                sparse.numbers = [self._decimal(number) for number in value.split(b",") if number]

    def _decimal(self, value: bytes) -> int:
        if not value.isdigit() or len(value) > 20:
            raise self.fail(f"is damaged: {ascii(value[:40].decode('ascii', 'replace'))} is not a number")
        return int(value)

    def _time(self, value: bytes) -> int:
        """Seconds with a fraction, in nanoseconds; exact, which float would not be."""
        sign = -1 if value.startswith(b"-") else 1
        seconds, _, fraction = value.removeprefix(b"-").partition(b".")
        return sign * (self._decimal(seconds) * 10**9 + self._decimal((fraction[:9] or b"0").ljust(9, b"0")))

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's first sparse format: four pieces in the header, more in blocks of 21 behind it."""
        numbers: list[int] = []
        block, start, count, extended = header, 386, 4, 482
        while True:
            for place in range(start, start + 24 * count, 24):
                piece = block[place : place + 24]
                if piece[12] == 0 and piece[0] == 0:
                    break
                numbers += [self._number(piece[:12]), self._number(piece[12:])]
            if not block[extended]:
                break
            if len(numbers) > 2 * SPARSE_LIMIT:
                raise self.fail(f"has an entry {entry.shown()} of too many pieces")
            block, start, count, extended = self._exactly(BLOCK), 0, 21, 504
        entry.size = self._number(header[483:495])
        self._set_sparse(entry, numbers)

    def _pax_sparse(self, entry: Entry, sparse: _Sparse) -> None:
        """GNU's sparse formats 0.0, 0.1 (map in the PAX header) and 1.0 (map before the data)."""
        if sparse.name is not None:
            entry.name = sparse.name
        if sparse.major == b"1":
            count = self._line()
            if count > SPARSE_LIMIT:
                raise self.fail(f"has an entry {entry.shown()} of too many pieces")
            sparse.numbers = [self._line() for _ in range(2 * count)]
            # The map is padded to whole blocks, and counts as stored data.
            self._skip_stored(-(entry.stored - self._remaining) % BLOCK)
            entry.stored = self._remaining
        entry.size = entry.size if sparse.size is None else sparse.size
        self._set_sparse(entry, sparse.numbers)

    def _skip_stored(self, size: int) -> None:
        if size > self._remaining:
            raise self.fail("is damaged: a sparse file has less data than its map says")
        self._skip(size)
        self._remaining -= size

    def _line(self) -> int:
        """A number and a newline from the data of the entry."""
        digits = b""
        while len(digits) <= 20 and self._remaining:
            byte = self._exactly(1)
            self._remaining -= 1
            if byte == b"\n":
                return self._decimal(digits)
            digits += byte
        raise self.fail("is damaged: the map of a sparse file is malformed")

    def _set_sparse(self, entry: Entry, numbers: list[int]) -> None:
        """Check that the pieces are in order, inside the file, and as long together as what is stored."""
        pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
        reached = 0
        for offset, length in pieces:
            if offset < reached or length < 0 or offset + length > entry.size:
                raise self.fail(
                    f"is damaged: the sparse file {entry.shown()} has overlapping or misplaced pieces"
                )
            reached = offset + length
        if (
            len(numbers) % 2
            or len(pieces) > SPARSE_LIMIT
            or sum(piece[1] for piece in pieces) != entry.stored
        ):
            raise self.fail(f"is damaged: the map of the sparse file {entry.shown()} does not fit its data")
        entry.sparse = pieces


@dataclass(slots=True)
class _Sparse:
    """What PAX records say about a sparse file."""

    used: bool = False
    name: bytes | None = None
    size: int | None = None
    major: bytes = b""
    numbers: list[int] = field(default_factory=list)
