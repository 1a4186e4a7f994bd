"""What a disk holds when power is cut, replayed from a log of its writes (tests/powerlog.py)."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from powerlog import SECTOR, Log

WRITE, FLUSH, DISCARD = 0, 1, 4


def entry(sector: int, sectors: int, flags: int, data: bytes = b"") -> bytes:
    return struct.pack("<4Q", sector, sectors, flags, len(data)).ljust(SECTOR, b"\0") + data


def log_of(directory: Path, *entries: bytes) -> Log:
    path = directory / "log"
    head = struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), SECTOR).ljust(SECTOR, b"\0")
    path.write_bytes(head + b"".join(entries))
    return Log(path)


def test_what_was_flushed_is_there_and_of_the_rest_some(tmp_path: Path) -> None:
    pristine, cut = tmp_path / "pristine", tmp_path / "cut"
    pristine.write_bytes(b"-" * 8 * SECTOR)
    blocks = [byte * SECTOR for byte in (b"a", b"b", b"c", b"d")]
    log = log_of(
        tmp_path,
        entry(0, 1, WRITE, blocks[0]),
        entry(7, 1, DISCARD),
        entry(0, 0, FLUSH),
        entry(1, 1, WRITE, blocks[1]),
        entry(0, 1, WRITE, blocks[2]),
        entry(0, 0, FLUSH),
        entry(2, 1, WRITE, blocks[3]),
    )
    assert len(log.entries()) == 7 and len(log.entries()) == 7
    seen = set()
    for seed in range(40):
        log.cut(pristine, 5, random.Random(seed), cut)
        data = cut.read_bytes()
        assert data[7 * SECTOR :] == bytes(SECTOR)
        assert data[2 * SECTOR : 7 * SECTOR] == b"-" * 5 * SECTOR
        seen.add((data[:1], data[SECTOR : SECTOR + 1]))
    assert seen == {(first, second) for first in (b"a", b"c") for second in (b"-", b"b")}
    log.cut(pristine, 6, random.Random(0), cut)
    assert cut.read_bytes()[: 2 * SECTOR] == blocks[2] + blocks[1]


def test_an_entry_that_is_not_whole_does_not_count(tmp_path: Path) -> None:
    log = log_of(tmp_path, entry(0, 1, WRITE, b"a" * SECTOR), entry(1, 1, WRITE, b"b" * 100))
    assert len(log.entries()) == 1
    with open(tmp_path / "log", "ab") as file:
        file.write(b"b" * (SECTOR - 100) + bytes(SECTOR))
    assert [item.target for item in log.entries()] == [0, SECTOR]
