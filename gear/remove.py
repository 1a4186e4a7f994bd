"""Taking things away: one container, everything, or what nothing refers to.

Each step leaves a state from which the same command succeeds: what systemd runs goes first, then the unit, then the
container's directory, which is renamed before it is emptied.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gear import (
    allocation,
    boot,
    bundle,
    connecting,
    containers,
    definitions,
    files,
    garbage,
    images,
    install,
    lifecycle,
    neighbours,
    networks,
    store,
    uids,
    unitfile,
)
from gear.errors import GearError, NotFoundError
from gear.model import NAME, Layout, container_name
from gear.network import unit_name as network_unit
from gear.spec import Spec, unit_name
from gear.systemd import Manager, booted


def delete(manager: Manager, layout: Layout, name: str, *, volumes: bool = False) -> bool:
    """Stop and remove the container *name*; tells whether there was anything of it.

    Volumes stay unless asked for, and then only those that no other container uses.  Images stay.
    """
    name = container_name(name)
    unit, path = containers.unit_of(layout, name), containers.unit_path(layout, name)
    directory = layout.containers / name
    known = containers.exists(layout, name)
    spec = containers.existing(layout, name)
    # Found out first: an error in this must not leave a container stopped and still there.
    doomed = _volumes_of(layout, spec) if volumes and spec else []
    boot.disable(unit)
    if known:
        # Before the lock is taken: a payload may have an hour to stop, and others want to install meanwhile.
        result = manager.stop([unit])[unit]
        if result != "done" and path.exists():
            raise GearError(f"{name} is not deleted, because it could not be stopped: {result.rstrip('.')}.")
        lifecycle.settle(manager, unit)
    with files.locked(layout.lock):
        if unit.endswith(".scope"):
            _unpublish(layout, name)
        with neighbours.told(layout, name, None):
            files.remove_file(path)
            files.remove_tree(directory)
        for volume in doomed:
            files.remove_tree(layout.volumes / volume)
        _release(layout, name)
        return known


def _unpublish(layout: Layout, name: str) -> None:
    """Close the ports of a container that ran as a scope, whose end no unit hears of."""
    spec = containers.existing(layout, name)
    if spec is not None and spec.network.interfaces:
        connecting.unpublish(layout, name)


def _release(layout: Layout, name: str) -> None:
    """Give back what *name* had for itself alone: user ids, addresses, ports."""
    uids.release(layout, name)
    allocation.give_back(allocation.held(layout, name))


def _volumes_of(layout: Layout, spec: Spec) -> list[str]:
    """The volumes that *spec* has and no other container."""
    others = {
        volume
        for other in containers.names(layout)
        if other != spec.name
        for volume in _mounted(layout, other)
    }
    return sorted(set(_mounted(layout, spec.name)) - others)


def _mounted(layout: Layout, name: str) -> list[str]:
    spec = containers.get(layout, name)
    try:
        mounts = bundle.effective_mounts(spec, containers.image_of(layout, spec))
    except NotFoundError:  # the image is gone, and with it what it declares
        mounts = spec.mounts
    return [mount.source for mount in mounts if mount.kind == "volume"]


def drop_ins(layout: Layout, name: str) -> list[Path]:
    """The administrator's own drop-in directories for the unit of *name*, which gear never touches."""
    places = (Path("/etc/systemd/system"), Path("/run/systemd/system"), layout.units)
    found = [place / f"{unit_name(name)}.d" for place in places]
    return [path for path in found if path.is_dir()]


@dataclass(frozen=True)
class Leftover:
    """Something that `gear clean` takes away: what it is, where, and how."""

    what: str
    path: Path
    remove: Callable[[], object]


def leftovers(layout: Layout, *, with_images: bool = False, with_volumes: bool = False) -> list[Leftover]:
    """What no container refers to: remains of interrupted work, and on request images and volumes in no use.

    The caller holds the lock, so partial names are nobody's work in progress.
    """
    found: list[Leftover] = []
    installed = set(containers.names(layout))
    helper = layout.state / "helper"
    networks_ = [layout.networks, *_entries(layout.networks)]
    for directory in (layout.state, layout.containers, layout.volumes, layout.units, helper, *networks_):
        found += [
            _tree("interrupted work", path) for path in _entries(directory) if _is_ours_partial(layout, path)
        ]
    for path in _entries(layout.containers):
        if path.name in installed:
            current = _current_layer(layout, path.name)
            if _is_left_over(layout, path.name):
                what = "a container of gear run --rm that has ended"
                found.append(Leftover(what, path, partial(_remove_run, layout, path.name)))
                continue
            found += [
                _tree("interrupted work", inner)
                for inner in _entries(path)
                if inner.name.startswith(files.PARTIAL)
            ]
            found += [
                _tree("a writable layer of an earlier image", inner)
                for inner in _entries(path)
                if inner.name.startswith("layer-") and current is not None and inner != current
            ]
        elif NAME.fullmatch(path.name):
            found.append(_tree("a container without a specification", path))
    for path in _entries(layout.units):
        name = path.name.removeprefix("ctr-").removesuffix(".service")
        if unit_name(name) == path.name and name not in installed and _rendered_by_gear(path, layout):
            found.append(Leftover("a unit without a container", path, partial(files.remove_file, path)))
    for taken in uids.ranges(layout):
        if taken.name not in installed:
            remove = partial(files.remove_file, taken.path)
            found.append(Leftover(f"the user id range of {taken.name}", taken.path, remove))
    found += _network_leftovers(layout, installed)
    current_helper = os.path.realpath(helper / "current")
    for path in _entries(helper):
        if (
            path.is_dir()
            and not path.is_symlink()
            and str(path) != current_helper
            and not path.name.startswith(".")
        ):
            found.append(_tree("an earlier version of the start helper", path))
    found += _store_leftovers(layout, with_images=with_images)
    if with_volumes:
        used = {volume for name in installed for volume in _mounted(layout, name)}
        for path in _entries(layout.volumes):
            if path.name not in used and not path.name.startswith(files.PARTIAL):
                found.append(_tree("a volume that no container uses", path))
    return found


def _network_leftovers(layout: Layout, installed: set[str]) -> list[Leftover]:
    """Addresses and ports that no container has, and networks that are only half there."""
    found = []
    for item in allocation.taken(layout):
        spec = containers.existing(layout, item.name) if item.name in installed else None
        if item.name not in installed or (
            spec is not None
            and item.path not in allocation.wanted(layout, spec.network)
            and not lifecycle.runs_with_earlier(layout, spec)
        ):
            what = f"{item.what}, which {item.name} does not have"
            found.append(Leftover(what, item.path, partial(files.remove_file, item.path)))
    for network in neighbours.untold(layout):
        what = f"names on the network {network} that not all have been told"
        found.append(Leftover(what, layout.networks / network, partial(neighbours.tell, layout, network)))
    defined = set(definitions.names(layout))
    for path in _entries(layout.networks):
        if path.name not in defined and NAME.fullmatch(path.name):
            found.append(_tree("a network without a definition", path))
    for path in _entries(layout.units):
        name = path.name.removeprefix("gear-network@").removesuffix(".service")
        if network_unit(name) == path.name and name not in defined and _rendered_by_gear(path, layout):
            found.append(Leftover("a unit without a network", path, partial(files.remove_file, path)))
    return found


def _is_left_over(layout: Layout, name: str) -> bool:
    """Whether *name* should have been removed when it ended, and gear was killed before that."""
    run = containers.run_of(layout, name)
    if run is None or not run.remove or not booted():
        return False
    with Manager() as manager:
        state = manager.get(containers.unit_of(layout, name), "ActiveState", "s")
    return state in ("inactive", "failed") and not _has_owner(layout, name)


def _has_owner(layout: Layout, name: str) -> bool:
    """Whether the gear that runs it is there still; it holds a lock on the container's directory."""
    descriptor = os.open(layout.containers / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove_run(layout: Layout, name: str) -> None:
    """Remove a container of gear run; the caller holds the lock."""
    run = containers.run_of(layout, name)
    try:
        volumes = set(run.volumes if run else ())
        for other in containers.names(layout) if volumes else ():
            if other != name:
                volumes -= set(_mounted(layout, other))
    except GearError:  # nobody knows what others use
        volumes = set()
    if run is not None and run.kind == "scope":
        _unpublish(layout, name)
    with neighbours.told(layout, name, None):
        files.remove_file(containers.unit_path(layout, name))
        files.remove_tree(layout.containers / name)
    for volume in volumes:
        files.remove_tree(layout.volumes / volume)
    _release(layout, name)


def remove_run(layout: Layout, name: str) -> None:
    """Remove a container of gear run that has ended, with the volumes that its image declares."""
    with files.locked(layout.lock):
        if containers.spec_path(layout, name).exists():
            _remove_run(layout, name)


def _store_leftovers(layout: Layout, *, with_images: bool) -> list[Leftover]:
    """References on request, then what no reference and no container needs; the first removal takes all of those."""
    if not layout.images.is_dir():
        return []
    used = set(images.users(layout))
    found = []
    for reference, digest in sorted(store.references(layout).items()) if with_images else ():
        if digest not in used:
            path = store.place(layout, "manifests", digest)
            what = f"the image {reference}, which no container uses"
            found.append(Leftover(what, path, partial(store.remove_reference, layout, reference)))

    def collect() -> None:
        garbage.collect(layout, used, wait=True)

    for path, size in garbage.garbage(layout, used):
        found.append(Leftover(f"{size} bytes that no image needs", path, collect))
    if found:
        found[-1] = Leftover(found[-1].what, found[-1].path, _both(found[-1].remove, collect))
    return found


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        first()
        second()

    return run


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _tree(what: str, path: Path) -> Leftover:
    if path.is_dir() and not path.is_symlink():
        return Leftover(what, path, partial(files.remove_tree, path))
    return Leftover(what, path, partial(files.remove_file, path))


def _is_ours_partial(layout: Layout, path: Path) -> bool:
    name = path.name
    if not name.startswith(files.PARTIAL):
        return False
    # The unit directory is shared with others, who may name their files as they like.  A file is staged under a
    # partial name, and written there under a partial name of that.
    while name.startswith(files.PARTIAL):
        name = name.removeprefix(files.PARTIAL)
    return path.parent != layout.units or name.startswith(("ctr-", "container", "gear-network@"))


def _rendered_by_gear(path: Path, layout: Layout) -> bool:
    content = files.read_bytes(path) or b""
    directories = [unitfile.value(str(directory)) for directory in (layout.containers, layout.networks)]
    return content.startswith(tuple(f"# Rendered by gear from {place}/".encode() for place in directories))


def _current_layer(layout: Layout, name: str) -> Path | None:
    """The writable layer in use; None while it can't be told, or while the container may run on an older one."""
    spec = containers.existing(layout, name)
    if spec is None:
        return None
    if booted():
        with Manager() as manager:
            if manager.get(spec.unit, "ActiveState", "s") not in ("inactive", "failed"):
                return None
    return bundle.writable_layer(spec, layout)


def purge(manager: Manager, layout: Layout, *, volumes: bool = False) -> Mapping[str, GearError | None]:
    """Remove every container, every image, the units and the helper; volumes only on request.

    Returns the outcome for each container; what could not be stopped keeps everything it needs.
    """
    outcome: dict[str, GearError | None] = {}
    for name in containers.names(layout):
        try:
            delete(manager, layout, name)
            outcome[name] = None
        except GearError as error:
            outcome[name] = error
    if any(outcome.values()):
        return outcome
    for network in definitions.names(layout):
        networks.remove(manager, layout, network)
    with files.locked(layout.lock):
        for item in leftovers(layout):
            item.remove()
        for unit in install.static_units():
            boot.disable(unit)
        manager.stop(install.static_units())
        for unit in install.static_units():
            files.remove_file(layout.units / unit)
        files.remove_tree(layout.images)
        for directory in (
            layout.state / "helper",
            uids.directory(layout),
            layout.ports,
            layout.networks,
            layout.containers,
        ):
            files.remove_tree(directory)
        if volumes:
            files.remove_tree(layout.volumes)
    manager.reload()
    _remove_if_empty(layout.volumes, layout.lock, layout.state)
    return outcome


def _remove_if_empty(volumes: Path, lock: Path, state: Path) -> None:
    """Remove the state directory when nothing that anybody may want is left in it."""
    if not _entries(volumes):
        files.remove_tree(volumes)
    if _entries(state) == [lock]:
        files.remove_tree(state)
