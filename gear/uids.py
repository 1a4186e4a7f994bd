"""The ranges of host user ids that containers get: one of 65536 each, never shared.

`STATE/uids/BASE` is a symbolic link whose target is the name of the container that has the range; making it is what
takes the range, so two installs at once can't get the same.  The spec holds the base as well and is the truth; a
link whose container does not exist is swept by `gear clean`.
"""

from __future__ import annotations

import os
from pathlib import Path

from gear.errors import HostError
from gear.files import explained, make_directory, remove_file, sync_directory
from gear.model import Layout
from gear.spec import UID_RANGE_SIZE

# The range that systemd sets aside for containers (systemd.io/UIDS-GIDS).
FIRST = 0x00080000
LAST = 0x6FFF0000


def directory(layout: Layout) -> Path:
    """Where the links are."""
    return layout.state / "uids"


def owners(layout: Layout) -> dict[int, str]:
    """Every range that is taken: its first id, and the container's name."""
    found = {}
    with explained(f"read {directory(layout)}"):
        try:
            entries = os.listdir(directory(layout))
        except FileNotFoundError:
            return {}
        for entry in entries:
            if entry.isascii() and entry.isdigit():
                found[int(entry)] = os.readlink(directory(layout) / entry)
    return found


def allocate(
    layout: Layout, name: str, *, accounts: tuple[Path, ...] = (Path("/etc/subuid"), Path("/etc/subgid"))
) -> int:
    """The lowest range that nobody has, taken for *name*; the one it has already, if an earlier run was cut off.

    Ranges that the host delegates to its users (subuid(5)) are left to them.
    """
    make_directory(directory(layout), 0o700)
    taken = owners(layout)
    for base, owner in sorted(taken.items()):
        if owner == name:
            return base
    foreign = [_delegated(path) for path in accounts]
    base = FIRST
    while base <= LAST:
        busy = base in taken or any(
            start < base + UID_RANGE_SIZE and base < start + count
            for part in foreign
            for start, count in part
        )
        if not busy:
            with explained(f"take the user id range {base}"):
                try:
                    os.symlink(name, directory(layout) / str(base))
                    sync_directory(directory(layout))
                    return base
                except FileExistsError:
                    pass
        base += UID_RANGE_SIZE
    raise HostError(
        f"No user id range is left for {name}: all from {FIRST} to {LAST + UID_RANGE_SIZE - 1} are taken.",
        hint="gear clean frees the ranges of containers that no longer exist.",
    )


def release(layout: Layout, name: str) -> None:
    """Give back every range of *name*."""
    for base, owner in owners(layout).items():
        if owner == name:
            remove_file(directory(layout) / str(base))


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
