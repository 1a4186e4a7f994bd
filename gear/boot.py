"""What starts at boot: links in the `.wants` directories of targets, as `systemctl enable` makes them.

Made here and not over D-Bus: from systemd 257 on, EnableUnitFiles() without a reload afterwards marks every unit of the
machine as changed on disk, and a reload costs the more the more units there are.  Nothing that runs depends on these
links, and PID 1 reads them afresh at boot.  The rules are those of systemd.unit(5), "[Install] Section Options".
"""

from __future__ import annotations

import contextlib
import glob
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
_USUAL = {"socket": SOCKETS_TARGET, "timer": "timers.target"}
_WANTED_BY = {
    ACTIVE_TARGET: "multi-user.target",
    SOCKETS_TARGET: "sockets.target",
    "gear-metrics.socket": "sockets.target",
}


def link(unit: str) -> Path:
    """The link that makes *unit* start at boot."""
    usual = _USUAL.get(unit.rpartition(".")[2], ACTIVE_TARGET)
    return wants(_WANTED_BY.get(unit, usual)) / unit


def wants(target: str) -> Path:
    """Where the links of what starts with *target* are."""
    return DIRECTORY / f"{target}.wants"


def enable(layout: Layout, unit: str) -> None:
    """Make *unit* start at boot; nothing to do when it does."""
    path, target = link(unit), str(layout.units / unit)
    with files.explained(f"make {unit} start at boot"):
        _make(path, target)


def enable_with(layout: Layout, unit: str, other: str | None) -> bool:
    """Make the container's *unit* start whenever *other* does, and with no further container.

    Tells whether PID 1 has to read units again for that.
    """
    target, wanted = str(layout.units / unit), None if other is None else DIRECTORY / f"{other}.wants" / unit
    with files.explained(f"make {unit} start with {other}"):
        _remove([path for path in _beside_others(unit) if path != wanted])
        return wanted is not None and _make(wanted, target)


def _make(path: Path, target: str) -> bool:
    """Make a link that is not there; tells whether it had to be made."""
    if path.is_symlink() and os.readlink(path) == target:
        return False
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        files.sync_directory(path.parent.parent)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # it leads to another unit directory
    path.symlink_to(target)
    files.sync_directory(path.parent)
    return True


def _beside_others(unit: str) -> list[Path]:
    """The links that make *unit* start with other containers."""
    return sorted(DIRECTORY.glob(f"ctr-*.service.wants/{glob.escape(unit)}"))


def disable(unit: str) -> bool:
    """Keep *unit* from starting at boot, and with other containers; nothing to do when it does not.

    Tells whether PID 1 has to read units again, since it would start it with another container.
    """
    beside = _beside_others(unit)
    _remove([link(unit), *beside])
    return bool(beside)


def _remove(links: list[Path]) -> None:
    for path in links:
        if files.remove_durably(path):
            with contextlib.suppress(OSError):  # not empty: others start then
                path.parent.rmdir()
