"""Going back to a snapshot: writable layer, specification, unit and volumes change together (gear/switching.py).

Taking snapshots is gear/snapshots.py's.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import ExitStack

from gear import (
    allocation,
    bundle,
    connecting,
    containers,
    files,
    inside,
    install,
    lifecycle,
    neighbours,
    notices,
    publishing,
    replacing,
    snapshots,
    storage,
    store,
    switching,
    uids,
)
from gear.errors import GearError, IntegrityError
from gear.model import Layout
from gear.oci import Image
from gear.snapshots import Snapshot
from gear.systemd import Manager


def restore(
    manager: Manager, layout: Layout, name: str, label: str, *, restart: bool = False, volumes: bool = False
) -> bool:
    """Make *name* what it was when the snapshot *label* was taken; tells whether it was restarted for that.

    A container that runs is an error unless *restart*, with which it is stopped and started again.  Volumes whose data
    is in the snapshot become what they were; with *volumes* it is an error if there is none.  What the container
    was before is gone.  Raises GearError; unless the sentence says otherwise everything is as it was before.
    """
    with files.locked(layout.lock):
        switching.finish(layout, name)
        snapshots.installed(layout, name)
        found = snapshots.find(layout, name, label)
    if volumes and not found.volumes:
        raise GearError(f"The snapshot {label} of {name} holds no volumes.", hint="Leave --volumes out.")
    unit = containers.unit_of(layout, name)
    runs = manager.get(unit, "ActiveState", "s") not in ("inactive", "failed")
    if runs and not restart:
        raise GearError(
            f"{name} runs, so it can't be restored to {label}.",
            hint="--restart stops it and starts it again.",
        )
    if runs:
        result = manager.stop([unit])[unit]
        if result != "done":
            raise GearError(f"{name} is not restored, because it could not be stopped: {result.rstrip('.')}.")
        lifecycle.settle(manager, unit)
    try:
        _switch(manager, layout, name, label)
    except BaseException:
        if runs:
            manager.start([unit])
        raise
    notices.note("restore", CONTAINER_NAME=name, GEAR_SNAPSHOT=label)
    publishing.acquaint(manager, layout, [name])
    if runs:
        manager.reset_failed(unit)
        result = manager.start([unit])[unit]
        if result != "done":
            why = lifecycle.why(manager, found.spec, result)
            raise GearError(
                f"{name} is what it was at {label}, but: {why.message}", details=why.details, hint=why.hint
            )
    return runs


def _switch(manager: Manager, layout: Layout, name: str, label: str) -> None:
    """Stage everything, then replace it."""
    with files.locked(layout.lock), store.lease(layout), ExitStack() as stack:
        switching.finish(layout, name)
        found = snapshots.find(layout, name, label)
        stack.callback(os.close, inside.claim(layout, name))
        if inside.if_running(manager, layout, name) is not None:
            raise GearError(f"{name} was started meanwhile, so it is not restored.", hint="Try again.")
        _require_unused(manager, layout, found)
        spec, image = found.spec, containers.image_of(layout, found.spec)
        _require_ids(layout, found)
        install.check_host(layout, spec, image)
        had = allocation.held(layout, name)
        spec = dataclasses.replace(spec, network=connecting.settle(layout, name, spec.network))
        neighbours.require_unambiguous(layout, spec)
        connecting.take(layout, name, spec.network)
        rendered = containers.compare(containers.render(spec, image, layout))
        changed = {path: (content, replacing.mode_of(path)) for path, (_, content) in rendered.items()}
        publishing.publish_helper(layout)
        with neighbours.told(layout, name, spec):
            with ExitStack() as undo:
                exchanges = _stage(layout, found, image, undo)
                # What fails from here on takes the decision back, before what was staged goes.
                undo.callback(files.remove_file, containers.switch_path(layout, name))
                switching.begin(layout, name, switching.Switch(f"the snapshot {label}", exchanges, changed))
                undo.pop_all()
            switching.finish(layout, name)
        # Its unit has ended, so nothing uses any longer what it had and has no more.
        allocation.give_back(had - allocation.wanted(layout, spec.network))


def _stage(layout: Layout, found: Snapshot, image: Image, undo: ExitStack) -> Sequence[switching.Exchange]:
    """Copies of what the snapshot holds beside what they are to replace; *undo* removes them."""
    exchanges = []
    spec = found.spec
    if not spec.ephemeral:
        if not (found.path / "layer").is_dir():
            raise IntegrityError(f"The snapshot {found.label} of {spec.name} has lost its writable layer.")
        part = switching.staged(bundle.writable_layer(spec, layout))
        undo.callback(switching.discard, part.staged)
        storage.driver(spec.storage).snapshot(found.path / "layer", part.staged)
        exchanges.append(part)
    files.make_directory(layout.volumes, 0o700)
    for volume in found.volumes:
        part = switching.staged(layout.volumes / volume)
        undo.callback(switching.discard, part.staged)
        with files.explained(f"make the volume {volume}"):
            os.mkdir(part.staged, 0o755)
        snapshots.copy_volume(found.path / "volumes" / volume, part.staged / "data")
        exchanges.append(part)
    if found.volumes:
        files.sync_file_system(layout.volumes)
    # What it did not hold and is gone by now begins as a new one does.
    install.make_volumes(layout, spec, image, undo, but=found.volumes)
    return exchanges


def _require_unused(manager: Manager, layout: Layout, found: Snapshot) -> None:
    """Raise GearError when a volume that is to be replaced is another running container's as well."""
    if not found.volumes:
        return
    for other in containers.names(layout):
        if other == found.spec.name:
            continue
        spec = containers.get(layout, other)
        shared = set(found.volumes) & {mount.source for mount in spec.mounts if mount.kind == "volume"}
        if shared and inside.if_running(manager, layout, other) is not None:
            raise GearError(
                f"{found.spec.name} can't be restored to {found.label}: "
                f"{other} runs, and has the volume {sorted(shared)[0]} as well.",
                hint=f"gear stop {other}",
            )


def _require_ids(layout: Layout, found: Snapshot) -> None:
    """Have the user ids that the files of the snapshot belong to; raises GearError when they are another's."""
    spec = found.spec
    if not spec.own_ids:
        return
    if spec.isolation.id_range is not None:
        uids.take(layout, spec.name, *spec.isolation.id_range)
    elif uids.allocate(layout, spec.name) != spec.uid_base:
        raise GearError(
            f"{spec.name} can't be restored to {found.label}: "
            f"its files belong to user ids from {spec.uid_base} on, which are not those of {spec.name} any more."
        )
