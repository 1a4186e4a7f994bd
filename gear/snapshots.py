"""Snapshots of containers: the writable layer, the specification and, when asked for, the data of named volumes.

Restoring one is gear/restoring.py's.  A snapshot is a directory that appears whole:

    containers/NAME/snapshots/LABEL/
        snapshot.json           {"version", "created": seconds since the epoch, "volumes": names whose data is here}
        spec.json               the specification as it was
        layer/                  a copy of the writable layer, made by the storage driver; none of an ephemeral container
        volumes/VOLUME/         the files of a volume

It is removed with its container.  The image it needs is in use (`users`), so it is never garbage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gear import (
    bundle,
    composing,
    containers,
    contents,
    files,
    members,
    notices,
    pausing,
    removal,
    storage,
    store,
    switching,
    volumestore,
)
from gear.errors import GearError, IntegrityError, NotFoundError, UsageError
from gear.model import NAME, Layout
from gear.mounting import volume_name
from gear.oci import Image
from gear.records import dataclass
from gear.spec import Spec
from gear.systemd import Manager


@dataclass(frozen=True)
class Snapshot:
    """What there is of one snapshot."""

    label: str
    spec: Spec
    created: float  # seconds since the epoch
    volumes: tuple[str, ...]  # those whose data is in it
    path: Path

    def document(self) -> dict[str, Any]:
        """The members of `gear snapshot --list --output json`, described in gear(1)."""
        return {
            "container": self.spec.name,
            "label": self.label,
            "created": self.created,
            "image": {"reference": self.spec.image.reference, "digest": self.spec.image.digest},
            "volumes": list(self.volumes),
        }


def label_of(text: str) -> str:
    """*text* if it may be the label of a snapshot; raises UsageError otherwise."""
    if not NAME.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} can't be the label of a snapshot.",
            hint="Use 1 to 63 letters, digits, '_', '.' or '-', and begin with a letter or digit.",
        )
    return text


def directory(layout: Layout, name: str) -> Path:
    """Where the snapshots of *name* are."""
    return layout.containers / name / "snapshots"


def labels(layout: Layout, name: str) -> list[str]:
    """The labels of all snapshots of *name*, sorted."""
    with files.explained(f"read {directory(layout, name)}"):
        try:
            return sorted(entry for entry in os.listdir(directory(layout, name)) if NAME.fullmatch(entry))
        except FileNotFoundError:
            return []


def find(layout: Layout, name: str, label: str) -> Snapshot:
    """One snapshot; raises NotFoundError, and IntegrityError when it is damaged."""
    path = directory(layout, name) / label_of(label)
    if not os.path.lexists(path):
        known = labels(layout, name)
        raise NotFoundError(
            f"{name} has no snapshot {label}.",
            hint=f"It has {', '.join(known)}." if known else f"gear snapshot {name} makes one.",
        )
    try:
        top = members.mapping(files.read_json(path / "snapshot.json"))
        if top["version"] != 1:
            raise ValueError(f"its version is {top['version']!r}")
        created = float(members.number(top["created"]))
        volumes = tuple(volume_name(text) for text in members.texts(top["volumes"]))
        spec = Spec.from_mapping(files.read_json(path / "spec.json"), str(path / "spec.json"))
    except (KeyError, TypeError, ValueError, GearError) as error:
        raise IntegrityError(
            f"The snapshot {label} of {name} is damaged: {str(error).rstrip('.')}.",
            hint=f"gear snapshot {name} --rm {label} removes it.",
        ) from error
    return Snapshot(label, spec, created, volumes, path)


def listing(layout: Layout, name: str) -> list[Snapshot]:
    """All snapshots of *name*, oldest first."""
    found = [find(layout, name, label) for label in labels(layout, name)]
    return sorted(found, key=lambda snapshot: (snapshot.created, snapshot.label))


def users(layout: Layout) -> dict[str, list[str]]:
    """The digests of the images that snapshots need, with the names of these; raises IntegrityError."""
    result: dict[str, list[str]] = {}
    for name in containers.names(layout):
        for snapshot in listing(layout, name):
            users = result.setdefault(snapshot.spec.image.digest, [])
            users.append(f"{name} (snapshot {snapshot.label})")
    return result


def mounted(spec: Spec, image: Image) -> list[str]:
    """The named volumes of a container, sorted."""
    return sorted({m.source for m in bundle.effective_mounts(spec, image) if m.kind == "volume"})


def take(
    manager: Manager,
    layout: Layout,
    name: str,
    label: str | None = None,
    *,
    volumes: bool = False,
    pause: bool = True,
) -> Snapshot:
    """Make a snapshot of *name*, with the data of its *volumes* if wanted; without a *label* it gets the time as one.

    A container that runs is paused meanwhile unless *pause* is False.  Nothing of a snapshot that fails is left.
    """
    with files.locked(layout.lock), store.lease(layout):
        switching.finish(layout, name)
        spec = installed(layout, name)
        image = composing.image_of(layout, spec)
        target = directory(layout, name) / (
            free_label(labels(layout, name)) if label is None else label_of(label)
        )
        if target.exists():
            raise GearError(
                f"{name} has a snapshot {target.name} already.",
                hint=f"gear snapshot {name} --rm {target.name} removes it.",
            )
        wanted = [volume for volume in mounted(spec, image) if volumes and (layout.volumes / volume).exists()]
        files.make_directory(target.parent, 0o700)
        partial = files.partial_name(target)
        try:
            with files.explained(f"make the snapshot {target}"):
                os.mkdir(partial, 0o700)
                _write(partial, spec, wanted)
                (partial / "volumes").mkdir()
            with pausing.still(manager, layout, name, pause=pause):
                if not spec.ephemeral:
                    part = contents.writable(layout, spec)
                    storage.driver(spec.storage).snapshot(part, partial / "layer")
                for volume in wanted:
                    volumestore.copy_data(
                        bundle.volume_directory(layout, volume), partial / "volumes" / volume
                    )
            with files.explained(f"make the snapshot {target}"):
                files.sync_file_system(partial)
                os.rename(partial, target)
                files.sync_directory(target.parent)
                files.sync_directory(target.parent.parent)
        except BaseException:
            switching.discard(partial)
            raise
        notices.note("snapshot", CONTAINER_NAME=name, GEAR_SNAPSHOT=target.name)
        return find(layout, name, target.name)


def installed(layout: Layout, name: str) -> Spec:
    """The spec of an installed container; raises GearError for one of gear run."""
    spec = containers.get(layout, name)
    if containers.run_of(layout, name) is not None:
        raise GearError(
            f"{name} was run once and is not installed, so it has no snapshots and is not upgraded."
        )
    return spec


def _write(path: Path, spec: Spec, volumes: Iterable[str]) -> None:
    document = {"version": 1, "created": time.time(), "volumes": list(volumes)}
    files.write_atomic(path / "snapshot.json", files.dump_json(document), 0o600)
    files.write_atomic(path / "spec.json", files.dump_json(spec.to_mapping()), 0o600)


def free_label(known: Sequence[str], kind: str = "") -> str:
    """A label that is none of the *known* ones: *kind* and the time, to the second and then some."""
    stem = kind + time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    numbers = iter(range(2, len(known) + 3))
    label = stem
    while label in known:
        label = f"{stem}-{next(numbers)}"
    return label


def remove(layout: Layout, name: str, label: str) -> None:
    """Remove a snapshot, damaged or not; raises NotFoundError."""
    with files.locked(layout.lock):
        containers.get(layout, name)
        path = directory(layout, name) / label_of(label)
        if not path.is_dir():
            find(layout, name, label)  # raises: it is not there
        removal.remove_tree(path)
