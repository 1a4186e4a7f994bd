"""The ranges of host user ids that containers get: one of 65536 each, never shared.

`STATE/uids/BASE` is a symbolic link whose target is the name of the container that has the range; making it is what
takes the range, so two installs at once can't get the same.  A range that was asked for by number is called
`BASE:SIZE`.  The spec holds the base as well and is the truth; a link whose container does not exist is swept by
`gear clean`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from gear.errors import HostError, UsageError
from gear.files import explained, make_directory, remove_file, sync_directory
from gear.model import Layout
from gear.patterns import pattern
from gear.records import dataclass
from gear.spec import UID_RANGE_SIZE

# The range that systemd sets aside for containers (systemd.io/UIDS-GIDS).
FIRST = 0x00080000
LAST = 0x6FFF0000
_ENTRY = pattern(r"([0-9]{1,10})(?::([0-9]{1,10}))?", re.ASCII)


def directory(layout: Layout) -> Path:
    """Where the links are."""
    return layout.state / "uids"


@dataclass(frozen=True)
class Range:
    """A range that is taken: its ids, whose it is, and the link that says so."""

    base: int
    size: int
    name: str
    link: str

    @property
    def path(self) -> Path:
        return Path(self.link)

    def overlaps(self, base: int, size: int) -> bool:
        """Whether any of *size* ids from *base* on is in it."""
        return self.base < base + size and base < self.base + self.size


def ranges(layout: Layout) -> list[Range]:
    """Every range that is taken, lowest first."""
    found = []
    # Each install asks, so no Path is made for each container that there is.
    place = str(directory(layout))
    with explained(f"read {place}"):
        try:
            entries = os.listdir(place)
        except FileNotFoundError:
            return []
        for entry in entries:
            if match := _ENTRY.fullmatch(entry):
                link = f"{place}/{entry}"
                found.append(Range(int(match[1]), int(match[2] or UID_RANGE_SIZE), os.readlink(link), link))
    return sorted(found, key=lambda item: (item.base, item.size))


def take(layout: Layout, name: str, base: int, size: int) -> int:
    """Take *size* ids from *base* on for *name*; raises UsageError when some are another container's."""
    make_directory(directory(layout), 0o700)
    path = directory(layout) / f"{base}:{size}"
    for taken in ranges(layout):
        if taken.name != name and taken.overlaps(base, size):
            raise UsageError(
                f"{name} can't have the user ids {base} to {base + size - 1}: "
                f"{taken.base} to {taken.base + taken.size - 1} are those of {taken.name}."
            )
    with explained(f"take the user id range {base}"):
        if not path.is_symlink():
            os.symlink(name, path)
            sync_directory(directory(layout))
    return base


def allocate(
    layout: Layout, name: str, *, accounts: tuple[Path, ...] = (Path("/etc/subuid"), Path("/etc/subgid"))
) -> int:
    """The lowest range that nobody has, taken for *name*; the one it has already, if an earlier run was cut off.

    Ranges that the host delegates to its users (subuid(5)) are left to them.
    """
    make_directory(directory(layout), 0o700)
    taken = ranges(layout)
    for found in taken:
        if found.name == name and found.path.name == str(found.base):
            return found.base
    foreign = [part for path in accounts for part in _delegated(path)]
    for base in _free([(found.base, found.size) for found in taken] + foreign):
        with explained(f"take the user id range {base}"):
            try:
                os.symlink(name, directory(layout) / str(base))
                sync_directory(directory(layout))
                return base
            except FileExistsError:
                pass
    raise HostError(
        f"No user id range is left for {name}: all from {FIRST} to {LAST + UID_RANGE_SIZE - 1} are taken.",
        hint="gear clean frees the ranges of containers that no longer exist.",
    )


def _free(taken: list[tuple[int, int]]) -> Iterator[int]:
    """The first ids of ranges for containers of which no id is in one of the (first id, count) pairs, lowest first."""
    base = FIRST
    for start, count in [*sorted(item for item in taken if item[1]), (LAST + UID_RANGE_SIZE, 0)]:
        while base + UID_RANGE_SIZE <= start and base <= LAST:
            yield base
            base += UID_RANGE_SIZE
        if start + count > base:
            base += -(-(start + count - base) // UID_RANGE_SIZE) * UID_RANGE_SIZE


def release(layout: Layout, name: str) -> None:
    """Give back every range of *name*."""
    for found in ranges(layout):
        if found.name == name:
            remove_file(found.path)


def _delegated(path: Path) -> list[tuple[int, int]]:
    """The (first id, count) pairs of a subuid(5) file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    ranges = []
    for line in lines:
        parts = line.split(":")
        if len(parts) == 3 and parts[1].isdigit() and parts[2].strip().isdigit():
            ranges.append((int(parts[1]), int(parts[2])))
    return ranges
