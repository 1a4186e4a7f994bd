"""Going back to a snapshot: writable layer, specification, unit and volumes change together (gear/switching.py).

Taking snapshots is gear/snapshots.py's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from gear import (
    allocation,
    bundle,
    composing,
    connecting,
    containers,
    files,
    inside,
    install,
    lifecycle,
    neighbours,
    notices,
    publishing,
    records,
    replacing,
    snapshots,
    sockets,
    storage,
    store,
    switching,
    uids,
    volumestore,
)
from gear.errors import GearError, IntegrityError
from gear.model import Layout
from gear.oci import Image
from gear.snapshots import Snapshot
from gear.spec import Spec
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
        require_unused(manager, layout, name, found.volumes)
        image = composing.image_of(layout, found.spec)
        freed = exchange(
            layout,
            found.spec,
            image,
            f"the snapshot {label}",
            lambda undo: _stage(layout, found, image, undo),
        )
        # Its unit has ended, so nothing uses any longer what it had and has no more.
        allocation.give_back(freed)


def exchange(
    layout: Layout,
    spec: Spec,
    image: Image,
    what: str,
    stage: Callable[[ExitStack], Sequence[switching.Exchange]],
) -> set[Path]:
    """Replace the files of a container by those of *spec*, and what *stage* stages, which the stack that it gets
    removes; all or nothing of it, also after SIGKILL.  *what* is for the journal.

    Returns the addresses and ports that the container has no more; a payload that runs has them still.  The caller
    holds the lock and a lease of the store.
    """
    name = spec.name
    _require_ids(layout, spec, what)
    install.check_host(layout, spec, image)
    had = allocation.held(layout, name)
    spec = records.replace(spec, network=connecting.settle(layout, name, spec.network))
    neighbours.require_unambiguous(layout, spec)
    connecting.take(layout, name, spec.network)
    rendered = composing.render(spec, image, layout)
    differ = composing.compare(rendered)
    changed = {path: (content, replacing.mode_of(path)) for path, (_, content) in differ.items()}
    publishing.publish_helper(layout)
    with neighbours.told(layout, name, spec):
        with ExitStack() as undo:
            exchanges = stage(undo)
            # What fails from here on takes the decision back, before what was staged goes.
            undo.callback(files.remove_file, containers.switch_path(layout, name))
            switching.begin(layout, name, switching.Switch(what, exchanges, changed))
            undo.pop_all()
        switching.finish(layout, name)
    sockets.remove_files(layout, name, keep=rendered)
    return had - allocation.wanted(layout, spec.network)


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
    exchanges += stage_volumes(layout, found, undo)
    # What it did not hold and is gone by now begins as a new one does.
    install.make_volumes(layout, spec, image, undo, but=found.volumes)
    return exchanges


def stage_volumes(layout: Layout, found: Snapshot, undo: ExitStack) -> list[switching.Exchange]:
    """Copies of the volumes that the snapshot holds beside those there are; *undo* removes them."""
    exchanges = []
    files.make_directory(layout.volumes, 0o700)
    for volume in found.volumes:
        held, known = found.path / "volumes" / volume, (layout.volumes / volume).exists()
        if not known:  # it was removed meanwhile
            with volumestore.appearing(layout, volume, volumestore.new_record()) as (data, _):
                volumestore.copy_data(held, data)
            undo.callback(volumestore.remove, layout, volume)
            continue
        part = switching.staged(bundle.volume_directory(layout, volume))
        undo.callback(switching.discard, part.staged)
        volumestore.copy_data(held, part.staged, volumestore.record(layout, volume).size)
        exchanges.append(part)
    if found.volumes:
        files.sync_file_system(layout.volumes)
    return exchanges


def require_unused(manager: Manager, layout: Layout, name: str, volumes: Collection[str]) -> None:
    """Raise GearError when one of *volumes*, which are to be replaced, is another running container's as well."""
    if not volumes:
        return
    for other in containers.names(layout):
        if other == name:
            continue
        spec = containers.get(layout, other)
        shared = set(volumes) & {mount.source for mount in spec.mounts if mount.kind == "volume"}
        if shared and inside.if_running(manager, layout, other) is not None:
            raise GearError(
                f"The volumes of {name} can't be replaced: "
                f"{other} runs, and has the volume {sorted(shared)[0]} as well.",
                hint=f"gear stop {other}",
            )


def _require_ids(layout: Layout, spec: Spec, what: str) -> None:
    """Have the user ids that the files of *what* belong to; raises GearError when they are another's."""
    if not spec.own_ids:
        return
    if spec.isolation.id_range is not None:
        uids.take(layout, spec.name, *spec.isolation.id_range)
    elif uids.allocate(layout, spec.name) != spec.uid_base:
        raise GearError(
            f"{spec.name} can't go back to {what}: "
            f"its files belong to user ids from {spec.uid_base} on, which are not those of {spec.name} any more."
        )
