"""A disk as power cuts would have left it: what was written to it and flushed, replayed up to any moment.

Not what writes to it, nor what is expected of it (tests/vm/test_power.py).  The log is that of qemu's blklogwrites: the
format of the kernel's dm-log-writes, little endian, in sectors of 512 bytes:

    superblock   magic, version, number of entries (u64 each), size of a sector (u32)
    entry        first sector, number of sectors, flags, length of data (u64 each), in a sector; then the data
"""

from __future__ import annotations

import random
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
_MAGIC = 0x6A736677736872
_FLUSH, _DISCARD = 1, 4
# What a disk writes at once or not at all; a longer request may be cut in two.
_BLOCK = 4096


@dataclass(frozen=True)
class Entry:
    """One request: *length* bytes at *target* of the disk, which are at *data* of the log; or a flush."""

    target: int
    length: int
    data: int
    is_flush: bool
    is_discard: bool


class Log:
    """What has been recorded of one disk so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[Entry] = []
        self._end = SECTOR

    def entries(self) -> list[Entry]:
        """All entries up to now; each is there once it has been carried out."""
        with open(self._path, "rb") as log:
            magic = struct.unpack("<Q", log.read(8))[0]
            assert magic == _MAGIC, f"{self._path} is no log of writes"
            size = self._path.stat().st_size
            while self._end + SECTOR <= size:
                log.seek(self._end)
                sector, sectors, flags, length = struct.unpack("<4Q", log.read(32))
                if not sectors and not flags:  # not written yet
                    break
                has_data = sectors and not flags & _DISCARD
                data = self._end + SECTOR
                if has_data and data + sectors * SECTOR > size:
                    break
                entry = Entry(
                    sector * SECTOR, sectors * SECTOR, data, bool(flags & _FLUSH), bool(flags & _DISCARD)
                )
                self._entries.append(entry)
                self._end = data + (entry.length if has_data else 0)
        return self._entries

    def cut(self, pristine: Path, moment: int, chance: random.Random, into: Path) -> str:
        """Make *into* what the disk, *pristine* at first, is when power fails after *moment* entries.

        All that was flushed is there.  Of what came after the last flush each block is there or not, by *chance*: a
        disk with a cache writes in any order.  Returns a description.
        """
        shutil.copyfile(pristine, into)
        entries = self._entries[:moment]
        flushed = max((number for number, entry in enumerate(entries, 1) if entry.is_flush), default=0)
        kept = lost = 0
        with open(self._path, "rb") as log, open(into, "r+b") as disk:
            for number, entry in enumerate(entries):
                for offset in range(0, entry.length, _BLOCK):
                    length = min(_BLOCK, entry.length - offset)
                    if number >= flushed:
                        if chance.random() < 0.5:
                            lost += 1
                            continue
                        kept += 1
                    disk.seek(entry.target + offset)
                    if entry.is_discard:
                        disk.write(bytes(length))
                    else:
                        log.seek(entry.data + offset)
                        disk.write(log.read(length))
        return f"after {moment} requests, {kept} blocks of the last ones kept and {lost} lost"
