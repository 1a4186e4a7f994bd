"""What starts at boot: links in the `.wants` directories of targets, as `systemctl enable` makes them.

Made here and not over D-Bus: from systemd 257 on, EnableUnitFiles() without a reload afterwards marks every unit of the
machine as changed on disk, and a reload costs the more the more units there are.  Nothing that runs depends on these
links, and PID 1 reads them afresh at boot.  The rules are those of systemd.unit(5), "[Install] Section Options".
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gear import files
from gear.model import Layout

# Where the administrator's links are; `systemctl enable` and `disable` work on the same.
DIRECTORY = Path("/etc/systemd/system")
# Unit -> the target that wants it, as WantedBy= in the units says; containers are wanted by ACTIVE_TARGET, sockets that
# start them by SOCKETS_TARGET.
ACTIVE_TARGET = "container-active.target"
SOCKETS_TARGET = "container-sockets.target"
_WANTED_BY = {ACTIVE_TARGET: "multi-user.target", SOCKETS_TARGET: "sockets.target"}


def link(unit: str) -> Path:
    """The link that makes *unit* start at boot."""
    usual = SOCKETS_TARGET if unit.endswith(".socket") else ACTIVE_TARGET
    return DIRECTORY / f"{_WANTED_BY.get(unit, usual)}.wants" / unit


def enable(layout: Layout, unit: str) -> None:
    """Make *unit* start at boot; nothing to do when it does."""
    path, target = link(unit), str(layout.units / unit)
    with files.explained(f"make {unit} start at boot"):
        if path.is_symlink() and os.readlink(path) == target:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # it leads to another unit directory
        path.symlink_to(target)
        files.sync_directory(path.parent)


def disable(unit: str) -> None:
    """Keep *unit* from starting at boot; nothing to do when it does not."""
    path = link(unit)
    if files.remove_file(path):
        with contextlib.suppress(OSError):  # not empty: others start at boot
            path.parent.rmdir()
