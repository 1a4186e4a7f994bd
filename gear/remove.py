"""Taking things away: one container, everything, or what nothing refers to.

Each step leaves a state from which the same command succeeds: what systemd runs goes first, then the container's
directory, which is renamed before it is emptied, and that decides; then the unit, which without it is left over.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gear import (
    boot,
    containers,
    definitions,
    files,
    imagemounts,
    leftovers,
    lifecycle,
    log_namespaces,
    neighbours,
    networks,
    notices,
    publishing,
    removal,
    scheduling,
    slices,
    sockets,
    switching,
    uids,
    upgrade_record,
    volumestore,
)
from gear.errors import GearError, IntegrityError
from gear.model import Layout, container_name, unit_name
from gear.spec import Spec
from gear.supplies import KINDS
from gear.systemd import Manager


def delete(manager: Manager, layout: Layout, name: str, *, volumes: bool = False) -> bool:
    """Stop and remove the container *name*; tells whether there was anything of it.

    Volumes stay unless asked for, and then only those that no other container uses.  Images stay.
    """
    name = container_name(name)
    unit, path = containers.unit_of(layout, name), containers.unit_path(layout, name)
    directory = layout.containers / name
    known = containers.exists(layout, name)
    # Who upgrades it would go on with another that is called the same.
    upgrade_record.require_settled(layout, name)
    spec = containers.existing(layout, name)
    # Found out first: an error in this must not leave a container stopped and still there.
    doomed = _volumes_of(layout, spec) if volumes and spec else []
    if boot.disable(unit):
        manager.reload()
    sockets.disable(layout, name)
    scheduling.remove(manager, layout, name)
    if known:
        # Before the lock is taken: a payload may have an hour to stop, and others want to install meanwhile.
        listening = sockets.loaded(manager, name)
        result = manager.stop([*listening, unit])[unit]
        if result != "done" and path.exists():
            raise GearError(f"{name} is not deleted, because it could not be stopped: {result.rstrip('.')}.")
        lifecycle.settle(manager, unit)
    with files.locked(layout.lock):
        with suppress(IntegrityError):
            # Or a volume that was to be replaced would have no name.
            switching.finish(layout, name)
        if unit.endswith(".scope"):
            leftovers.unpublish(layout, name)
        for file in sockets.unit_files(layout, name):
            manager.reset_failed(file.name)
        sockets.remove_files(layout, name)
        with neighbours.told(layout, name, None):
            removal.remove_tree(directory)
            files.remove_durably(path)
        for volume in doomed:
            volumestore.remove(layout, volume)
        leftovers.release(layout, name)
    if known and manager.get(unit, "NeedDaemonReload", "b"):
        # Another unit names it, so PID 1 keeps what it has read, and would start that.
        manager.reload()
    if known:
        notices.note("delete", CONTAINER_NAME=name)
    return known


def _volumes_of(layout: Layout, spec: Spec) -> list[str]:
    """The volumes that *spec* has and no other container."""
    others = {
        volume
        for other in containers.names(layout)
        if other != spec.name
        for volume in leftovers.mounted(layout, other)
    }
    return sorted(set(leftovers.mounted(layout, spec.name)) - others)


def drop_ins(layout: Layout, name: str) -> list[Path]:
    """The administrator's own drop-in directories for the unit of *name*, which gear never touches."""
    places = (Path("/etc/systemd/system"), Path("/run/systemd/system"), layout.units)
    found = [place / f"{unit_name(name)}.d" for place in places]
    return [path for path in found if path.is_dir()]


def purge(manager: Manager, layout: Layout, *, volumes: bool = False) -> Mapping[str, GearError | None]:
    """Remove every container, every image, the units and the helper; volumes, secrets, configs and environment sets
    only on request.

    Returns the outcome for each container; what could not be stopped keeps everything it needs.
    """
    if mounts := imagemounts.mounted(layout):
        places = ", ".join(item.directory for item in mounts)
        raise GearError(f"Images are mounted on {places}.", hint="gear image unmount --all")
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
    for namespace in log_namespaces.listing(layout):
        log_namespaces.remove(manager, layout, namespace.name)
    for name in sorted(slices.made(layout), reverse=True):  # the inner ones first
        slices.remove(manager, layout, name)
    with files.locked(layout.lock):
        for item in leftovers.leftovers(layout):
            item.remove()
        for unit in publishing.static_units():
            boot.disable(unit)
        manager.stop(publishing.static_units())
        for unit in publishing.static_units():
            files.remove_file(layout.units / unit)
        removal.remove_tree(layout.images)
        removal.remove_tree(layout.containers)
        for directory in (
            layout.state / "helper",
            uids.directory(layout),
            layout.ports,
            layout.networks,
            layout.slices,
        ):
            files.remove_tree(directory)
        for directory in kept(layout).values() if volumes else ():
            removal.remove_tree(directory)
    manager.reload()
    _remove_if_empty(layout)
    return outcome


def kept(layout: Layout) -> dict[str, Path]:
    """What a purge leaves unless it is told otherwise, by what it is called."""
    return {
        "volumes": layout.volumes,
        **{f"{words[0]}s": layout.state / kind for kind, words in KINDS.items()},
    }


def _remove_if_empty(layout: Layout) -> None:
    """Remove the state directory when nothing that anybody may want is left in it."""
    for directory in kept(layout).values():
        if not leftovers.entries(directory):
            removal.remove_tree(directory)
    if leftovers.entries(layout.state) == [layout.lock]:
        if os.path.ismount(layout.state):  # a file system of its own: that is somebody else's to take away
            files.remove_file(layout.lock)
        else:
            removal.remove_tree(layout.state)
