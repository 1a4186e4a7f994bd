"""What directory trees take on their file systems, counted by du(1): blocks, and a file with several names once.

What is shared by reflinks or by snapshots of btrfs counts wherever it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gear import process

# Trees that one du is given, so that a command line is never too long.
_AT_ONCE = 500


def of(path: Path) -> int:
    """The bytes that *path* and all below it take; 0 when it is not there."""
    return sum(each([path]).values())


def each(paths: Sequence[Path]) -> dict[Path, int]:
    """The bytes that each of *paths* takes; what is in several of them counts with the first.

    Those that are not there are left out, and so is what disappears meanwhile.
    """
    there = [path for path in paths if os.path.lexists(path)]
    found: dict[Path, int] = {}
    for first in range(0, len(there), _AT_ONCE):
        some = [str(path) for path in there[first : first + _AT_ONCE]]
        # Its status is 1 when something has disappeared.
        counted = process.output(["du", "-s0B1", "--", *some], accept=(0, 1))
        for line in counted.split("\0")[:-1]:
            size, _, path = line.partition("\t")
            found[Path(path)] = int(size)
    return found
