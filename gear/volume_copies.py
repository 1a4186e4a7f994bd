"""Copies of named volumes: snapshots that are kept beside the data, going back to one, and clones.

A snapshot is a directory that appears whole and is removed with its volume:

    volumes/NAME/snapshots/LABEL/
        snapshot.json           {"version", "created": seconds since the epoch}
        data/                   a copy of the volume's; on btrfs a snapshot of it, on xfs its content is shared

Snapshots of whole containers, which may hold the data of their volumes, are gear/snapshots.py's.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from gear import bundle, files, footprint, members, removal, volumes, volumestore
from gear.errors import GearError, IntegrityError, NotFoundError
from gear.model import Layout
from gear.records import dataclass
from gear.snapshots import free_label, label_of
from gear.systemd import Manager


@dataclass(frozen=True)
class VolumeSnapshot:
    """What there is of one snapshot."""

    volume: str
    label: str
    created: float  # seconds since the epoch
    path: Path

    def document(self) -> dict[str, Any]:
        """The members of `gear volume snapshot --list --output json`, described in gear(1)."""
        return {
            "volume": self.volume,
            "label": self.label,
            "created": self.created,
            "used": footprint.of(self.path / "data"),
        }


def directory(layout: Layout, name: str) -> Path:
    """Where the snapshots of a volume are."""
    return layout.volumes / name / "snapshots"


def find(layout: Layout, name: str, label: str) -> VolumeSnapshot:
    """One snapshot; raises NotFoundError, and IntegrityError when it is damaged."""
    volumestore.require(layout, name)
    path = directory(layout, name) / label_of(label)
    if not path.is_dir():
        known = volumestore.snapshots(layout, name)
        raise NotFoundError(
            f"The volume {name} has no snapshot {label}.",
            hint=f"It has {', '.join(known)}." if known else f"gear volume snapshot {name} makes one.",
        )
    try:
        top = members.mapping(files.read_json(path / "snapshot.json"))
        if top["version"] != 1:
            raise ValueError(f"its version is {top['version']!r}")
        created = float(members.number(top["created"]))
        if not (path / "data").is_dir():
            raise ValueError("its data is missing")
    except (KeyError, TypeError, ValueError, GearError) as error:
        raise IntegrityError(
            f"The snapshot {label} of the volume {name} is damaged: {str(error).rstrip('.')}.",
            hint=f"gear volume snapshot {name} --rm {label} removes it.",
        ) from error
    return VolumeSnapshot(name, label, created, path)


def listing(layout: Layout, name: str) -> list[VolumeSnapshot]:
    """All snapshots of the volume *name*, oldest first."""
    found = [find(layout, name, label) for label in volumestore.snapshots(layout, name)]
    return sorted(found, key=lambda snapshot: (snapshot.created, snapshot.label))


def take(
    manager: Manager, layout: Layout, name: str, label: str | None = None, *, pause: bool = True
) -> VolumeSnapshot:
    """Make a snapshot of the volume *name*; without a *label* it gets the time as one.

    Containers that have it are paused meanwhile unless *pause* is False.  Nothing of one that fails is left.
    """
    with files.locked(layout.lock), volumestore.held(layout, name):
        known = volumestore.snapshots(layout, name)
        target = directory(layout, name) / (free_label(known) if label is None else label_of(label))
        if target.name in known:
            raise GearError(
                f"The volume {name} has a snapshot {target.name} already.",
                hint=f"gear volume snapshot {name} --rm {target.name} removes it.",
            )
        files.make_directory(target.parent, 0o700)
        partial = files.partial_name(target)
        try:
            with files.explained(f"make the snapshot {target}"):
                os.mkdir(partial, 0o700)
                document = files.dump_json({"version": 1, "created": time.time()})
                files.write_atomic(partial / "snapshot.json", document, 0o600)
                with volumes.still(manager, layout, name, pause=pause):
                    volumestore.copy_data(bundle.volume_directory(layout, name), partial / "data")
                files.sync_file_system(partial)
                os.rename(partial, target)
                files.sync_directory(target.parent)
        except BaseException:
            if partial.exists():
                removal.remove_tree(partial)
            raise
        return find(layout, name, target.name)


def restore(manager: Manager, layout: Layout, name: str, label: str) -> None:
    """Make the data of the volume *name* what it was at *label*; what it was before is gone then.

    Raises GearError while a container that has it runs.
    """
    with files.locked(layout.lock), volumestore.held(layout, name) as path:
        found = find(layout, name, label)
        with (
            volumes.stopped(manager, layout, name, f"restored to {label}"),
            volumestore.replacing(path, volumestore.record(layout, name).size, copy_of=found.path / "data"),
        ):
            pass


def remove(layout: Layout, name: str, label: str) -> None:
    """Remove a snapshot, damaged or not; raises NotFoundError."""
    with files.locked(layout.lock), volumestore.held(layout, name):
        path = directory(layout, name) / label_of(label)
        if not path.is_dir():
            find(layout, name, label)  # raises: it is not there
        removal.remove_tree(path)


def clone(manager: Manager, layout: Layout, name: str, new: str, *, pause: bool = True) -> None:
    """Make the volume *new*, which must not be there yet, with the data, labels and limit of *name*."""
    with files.locked(layout.lock), volumestore.held(layout, name):
        if (layout.volumes / new).exists():
            raise GearError(
                f"There is a volume {new} already.",
                hint=f"Choose another name, or: gear volume rm {new}",
            )
        with volumes.still(manager, layout, name, pause=pause):
            volumestore.clone(layout, name, new)
