"""What nothing refers to any more: remains of interrupted work and of containers, found and taken away by `gear clean`.

Not garbage inside the image store (gear/garbage.py), and not the removal of what is installed (gear/remove.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gear import (
    allocation,
    bundle,
    composing,
    connecting,
    containers,
    definitions,
    files,
    garbage,
    images,
    leases,
    lifecycle,
    neighbours,
    removal,
    schedule,
    snapshots,
    store,
    uids,
    unfinished,
    unitfile,
    upgrade_record,
    volumestore,
)
from gear.errors import GearError, NotFoundError
from gear.model import NAME, Layout, listener_of, unit_name
from gear.network import unit_name as network_unit
from gear.records import dataclass
from gear.supplies import KINDS
from gear.systemd import Manager, booted

# What unit files of gear begin with, before the directory of what they are made from.
_RENDERED = "# Rendered by gear from "


@dataclass(frozen=True)
class Leftover:
    """Something that `gear clean` takes away: what it is, where, how, and whether a container has written to it."""

    what: str
    path: Path
    remove: Callable[[], object]
    holds_data: bool = False


def leftovers(layout: Layout, *, with_images: bool = False, with_volumes: bool = False) -> list[Leftover]:
    """What no container refers to: remains of interrupted work, and on request images and volumes in no use.

    The caller holds the lock, so partial names are nobody's work in progress.
    """
    claimed = unfinished.claimed(layout)
    found = [Leftover(*item) for item in unfinished.changes(layout)]
    found += [_tree("a snapshot that was interrupted", path) for path in unfinished.partials(layout)]
    installed = set(containers.names(layout))
    helper = layout.state / "helper"
    inner = [*_named(layout), *volumestore.directories(layout)]
    for directory in (layout.state, layout.containers, layout.volumes, layout.units, helper, *inner):
        found += [
            _tree("interrupted work", path)
            for path in entries(directory)
            if _is_ours_partial(layout, path) and path not in claimed
        ]
    for path in entries(layout.containers):
        if path.name in installed:
            current = _current_layers(layout, path.name)
            if _is_left_over(layout, path.name):
                what = "a container of gear run --rm that has ended"
                found.append(Leftover(what, path, partial(_remove_run, layout, path.name), True))
                continue
            found += [
                _tree("interrupted work", inner)
                for inner in entries(path)
                if inner.name.startswith(files.PARTIAL) and inner not in claimed
            ]
            found += [
                _tree("a writable layer of an earlier image or storage driver", inner, holds_data=True)
                for inner in entries(path)
                if inner.name.startswith("layer-") and current is not None and inner not in current
            ]
        elif NAME.fullmatch(path.name) and path not in claimed:
            found.append(_tree("a container without a specification", path, holds_data=True))
    found += _units(layout, installed)
    for taken in uids.ranges(layout):
        if taken.name not in installed:
            remove = partial(files.remove_file, taken.path)
            # Whatever is left of the container has files of these ids.
            remains = (layout.containers / taken.name).exists()
            found.append(Leftover(f"the user id range of {taken.name}", taken.path, remove, remains))
    found += of_networks(layout, installed)
    current_helper = os.path.realpath(helper / "current")
    for path in entries(helper):
        if (
            path.is_dir()
            and not path.is_symlink()
            and str(path) != current_helper
            and not path.name.startswith(".")
        ):
            found.append(_tree("an earlier version of the start helper", path))
    found += _store_leftovers(layout, with_images=with_images)
    if with_volumes:
        used = {volume for name in installed for volume in mounted(layout, name)}
        for name in volumestore.names(layout):
            if name not in used:
                path = layout.volumes / name
                found.append(_tree("a volume that no container uses", path, holds_data=True))
    return found


def _units(layout: Layout, installed: set[str]) -> list[Leftover]:
    """Unit files of containers that are gone, installed or run."""
    found = []
    for path in entries(layout.units):
        owner = listener_of(path.name) or schedule.owner(path.name)
        name = owner or path.name.removeprefix("ctr-").removesuffix(".service")
        known = unit_name(name) == path.name or owner is not None
        if known and name not in installed and rendered_by_gear(path, layout):
            found.append(Leftover("a unit without a container", path, partial(files.remove_file, path)))
    for path in entries(layout.transient_units):
        if unit_name(path.stem.removeprefix("ctr-")) == path.name and path.stem[4:] not in installed:
            if rendered_by_gear(path, layout):
                what = "a unit of a container that was run and is gone"
                found.append(Leftover(what, path, partial(files.remove_file, path)))
    return found


def of_networks(layout: Layout, installed: set[str]) -> list[Leftover]:
    """Addresses and ports that no container has, and networks that are only half there."""
    taken: dict[str, list[allocation.Taken]] = {}
    for item in allocation.taken(layout):
        taken.setdefault(item.name, []).append(item)
    found = []
    for name, items in taken.items():
        if name in installed:
            spec = containers.existing(layout, name)
            wanted = allocation.wanted(layout, spec.network) if spec is not None else None
            items = [item for item in items if wanted is not None and item.path not in wanted]
            if items and spec is not None and lifecycle.runs_with_earlier(layout, spec):
                continue
        for item in items:
            what = f"{item.what}, which {name} does not have"
            found.append(Leftover(what, item.path, partial(files.remove_file, item.path)))
    for network in neighbours.untold(layout):
        what = f"names on the network {network} that not all have been told"
        found.append(Leftover(what, layout.networks / network, partial(neighbours.tell, layout, network)))
    defined = set(definitions.names(layout))
    for path in entries(layout.networks):
        if path.name not in defined and NAME.fullmatch(path.name):
            found.append(_tree("a network without a definition", path))
    for path in entries(layout.units):
        name = path.name.removeprefix("gear-network@").removesuffix(".service")
        if network_unit(name) == path.name and name not in defined and rendered_by_gear(path, layout):
            found.append(Leftover("a unit without a network", path, partial(files.remove_file, path)))
    return found


def _named(layout: Layout) -> list[Path]:
    """The directories of networks, secrets, configs and environment sets, and of each one."""
    parents = [layout.networks, *(layout.state / kind for kind in KINDS)]
    return [place for parent in parents for place in (parent, *entries(parent))]


def _is_left_over(layout: Layout, name: str) -> bool:
    """Whether *name* should have been removed when it ended, and gear was killed before that."""
    run = containers.run_of(layout, name)
    if run is None or not run.remove or not booted():
        return False
    with Manager() as manager:
        state = manager.get(containers.unit_of(layout, name), "ActiveState", "s")
    return state in ("inactive", "failed") and not containers.has_owner(layout, name)


def _remove_run(layout: Layout, name: str) -> None:
    """Remove a container of gear run; the caller holds the lock."""
    run = containers.run_of(layout, name)
    try:
        volumes = set(run.volumes if run else ())
        for other in containers.names(layout) if volumes else ():
            if other != name:
                volumes -= set(mounted(layout, other))
    except GearError:  # nobody knows what others use
        volumes = set()
    if run is not None and run.kind == "scope":
        unpublish(layout, name)
    with neighbours.told(layout, name, None):
        files.remove_file(containers.unit_path(layout, name))
        removal.remove_tree(layout.containers / name)
    for volume in volumes:
        volumestore.remove(layout, volume)
    release(layout, name)


def remove_run(layout: Layout, name: str) -> None:
    """Remove a container of gear run that has ended, with the volumes that its image declares."""
    with files.locked(layout.lock):
        if containers.spec_path(layout, name).exists():
            _remove_run(layout, name)


def _store_leftovers(layout: Layout, *, with_images: bool) -> list[Leftover]:
    """References on request, then what no reference and no container needs; the first removal takes all of those.

    What a command that is at work has pinned, and while one is all that is partial, is not left over.
    """
    if not layout.images.is_dir():
        return []
    used = set(images.in_use(layout))
    found = []
    for reference, digest in sorted(store.references(layout).items()) if with_images else ():
        if digest not in used:
            path = store.place(layout, "manifests", digest)
            what = f"the image {reference}, which no container uses"
            found.append(Leftover(what, path, partial(store.remove_reference, layout, reference)))

    def collect() -> None:
        if garbage.collect(layout, used, wait=leases.PATIENCE_S) is None:
            raise GearError(
                f"What no image needs stays: {leases.who_works(layout)}.",
                hint="Run the same command again later.",
            )

    pinned = leases.pinned(layout)
    for path, size in garbage.garbage(layout, used | pinned):
        if f"{path.parent.name}:{path.name}" not in pinned:
            found.append(Leftover(f"{size} bytes that no image needs", path, collect))
    if not leases.pinners(layout):
        rest = [*garbage.interrupted(layout), *leases.abandoned(layout)]
        found += [Leftover("interrupted work", path, collect) for path in rest]
    if found:
        found[-1] = Leftover(found[-1].what, found[-1].path, _both(found[-1].remove, collect))
    return found


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        first()
        second()

    return run


def entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _tree(what: str, path: Path, *, holds_data: bool = False) -> Leftover:
    if path.is_dir() and not path.is_symlink():
        return Leftover(what, path, partial(removal.remove_tree, path), holds_data)
    return Leftover(what, path, partial(files.remove_file, path))


def _is_ours_partial(layout: Layout, path: Path) -> bool:
    name = path.name
    if not name.startswith(files.PARTIAL):
        return False
    # The unit directory is shared with others, who may name their files as they like.  A file is staged under a
    # partial name, and written there under a partial name of that.
    while name.startswith(files.PARTIAL):
        name = name.removeprefix(files.PARTIAL)
    return path.parent != layout.units or name.startswith(
        ("ctr-", "container", "gear-network@", "gear-upgrade@")
    )


def rendered_by_gear(path: Path, layout: Layout) -> bool:
    """Whether the unit file *path* is of this installation of gear."""
    content = files.read_bytes(path) or b""
    directories = [unitfile.value(str(directory)) for directory in (layout.containers, layout.networks)]
    return content.startswith(tuple(f"{_RENDERED}{place}/".encode() for place in directories))


def rendered_elsewhere(path: Path, layout: Layout) -> bool:
    """Whether the unit file *path* is of another installation of gear, with other directories."""
    content = files.read_bytes(path) or b""
    return content.startswith(_RENDERED.encode()) and not rendered_by_gear(path, layout)


def _current_layers(layout: Layout, name: str) -> set[Path] | None:
    """The writable layer in use, and that of a rollback; None while it can't be told, or while the container may run on
    an older one."""
    spec = containers.existing(layout, name)
    if spec is None:
        return None
    if booted():
        with Manager() as manager:
            if manager.get(spec.unit, "ActiveState", "s") not in ("inactive", "failed"):
                return None
    return {bundle.writable_layer(spec, layout)} | upgrade_record.layers(layout, name)


def unpublish(layout: Layout, name: str) -> None:
    """Close the ports of a container that ran as a scope, whose end no unit hears of."""
    spec = containers.existing(layout, name)
    if spec is not None and spec.network.interfaces:
        connecting.unpublish(layout, name)


def release(layout: Layout, name: str) -> None:
    """Give back what *name* had for itself alone: user ids, addresses, ports."""
    uids.release(layout, name)
    allocation.give_back(allocation.held(layout, name))


def mounted(layout: Layout, name: str) -> list[str]:
    """The volumes that a container has, or had when a snapshot was taken or before it was upgraded."""
    found = []
    # A snapshot without their data goes on with them when it is restored.
    kept = [*(s.spec for s in snapshots.listing(layout, name)), *upgrade_record.specs(layout, name)]
    for spec in (containers.get(layout, name), *kept):
        try:
            mounts = bundle.effective_mounts(spec, composing.image_of(layout, spec))
        except NotFoundError:  # the image is gone, and with it what it declares
            mounts = spec.mounts
        found += [mount.source for mount in mounts if mount.kind == "volume"]
    return found
