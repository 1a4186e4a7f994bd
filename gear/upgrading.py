"""Upgrades as transactions: another image, the writable layer that goes with it and, when asked for, the data of
volumes take the place of the ones before, or everything is as it was.  A rollback is the same the other way.

    1. everything is looked up and made that can fail; upgrade.json says what is going to be (gear/upgrade_record.py)
    2. if data of volumes is to be kept: the container is stopped, and a snapshot taken
    3. the files are replaced together (gear/switching.py), and volumes with them
    4. it is started, and has to stay up for a while; what fails from 2 on is taken back in the same way
    5. upgrades.json remembers what was before, and upgrade.json goes

The locks of a container and of gear are not the same: others install and start while this waits for a payload.
Pulling images is the caller's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from gear import (
    activation,
    allocation,
    bundle,
    composing,
    connecting,
    containers,
    draining,
    files,
    inside,
    install,
    lifecycle,
    publishing,
    records,
    restoring,
    snapshots,
    sockets,
    storage,
    store,
    switching,
    units,
    upgrade_record,
)
from gear.errors import GearError
from gear.model import Layout
from gear.network import FD
from gear.oci import Image
from gear.outline import ImageRef
from gear.spec import Spec
from gear.systemd import Manager
from gear.upgrade_record import DONE, INTERRUPTED, ROLLBACK, UNDONE, UPGRADE, Entry, Pending, Record

# How long the new payload must stay up if nothing else is said.
SETTLE_S = 3.0
# How long clients of proxies may take to finish with the old one.
DRAIN_S = 5.0
_PAUSE_S = 0.05
_GONE = ("inactive", "failed")
_UP = ("active", "reloading", "refreshing")


class UpgradeError(GearError):
    """An upgrade failed; the sentence says what the container is now."""


@records.dataclass(frozen=True)
class _Wish:
    """An upgrade or a rollback as it is asked for; *restore* is the snapshot that volumes become."""

    kind: str
    origin: Spec
    target: Spec
    keep_data: bool
    restore: str | None = None


def with_image(spec: Spec, image: Image) -> Spec:
    """*spec* with another image."""
    return records.replace(spec, image=ImageRef(image.reference, image.digest))


def upgrade(
    manager: Manager,
    layout: Layout,
    name: str,
    image: Image,
    *,
    volumes: bool = False,
    settle: float = SETTLE_S,
) -> Entry | None:
    """Move *name* to *image*, with a snapshot of its *volumes* to go back to; None when it has that already.

    Raises UpgradeError after everything was taken back, and other GearErrors when nothing was changed.
    """
    snapshots.installed(layout, name)
    with upgrade_record.owned(layout, name):
        _finish(manager, layout, name)
        origin = snapshots.installed(layout, name)
        if origin.image.digest == image.digest:
            return None
        target = with_image(origin, image)
        return _carry_out(manager, layout, _Wish(UPGRADE, origin, target, volumes), settle)


def rollback(
    manager: Manager, layout: Layout, name: str, *, volumes: bool = False, settle: float = SETTLE_S
) -> Entry:
    """Make *name* what it was before its last upgrade or rollback, with *volumes* also their data; raises as upgrade()
    does.  A second one goes forward again."""
    snapshots.installed(layout, name)
    with upgrade_record.owned(layout, name):
        _finish(manager, layout, name)
        origin, record = snapshots.installed(layout, name), upgrade_record.read(layout, name)
        if record.previous is None:
            raise GearError(f"{name} was not upgraded, so there is nothing to go back to.")
        label = record.snapshot if volumes else None
        if volumes and label is None:
            raise GearError(
                f"No snapshot was taken of the volumes of {name} before it was upgraded.",
                hint="Leave --volumes out; gear upgrade --snapshot-volumes takes one.",
            )
        return _carry_out(manager, layout, _Wish(ROLLBACK, origin, record.previous, volumes, label), settle)


def recover(manager: Manager, layout: Layout, name: str) -> Entry | None:
    """Finish or undo what was interrupted of *name*; None if there is nothing, or somebody is at it."""
    if not upgrade_record.abandoned(layout, name):
        return None
    with upgrade_record.owned(layout, name):
        return _finish(manager, layout, name)


def _carry_out(manager: Manager, layout: Layout, wish: _Wish, settle: float) -> Entry:
    item = _begin(manager, layout, wish)
    try:
        _change(manager, layout, item, settle)
    except GearError as error:
        _undo(manager, layout, item, error.message)
        what = "upgraded" if wish.kind == UPGRADE else "rolled back"
        raise UpgradeError(
            f"{wish.origin.name} is not {what}, and is again what it was before: {error.message}",
            details=error.details,
            hint=error.hint,
        ) from error
    except BaseException as error:
        ended = isinstance(error, KeyboardInterrupt)
        _undo(manager, layout, item, "gear was told to end." if ended else f"gear failed: {error!r}.")
        raise
    return _commit(layout, item, DONE)


def _begin(manager: Manager, layout: Layout, wish: _Wish) -> Pending:
    """Find every fault that can be found while nothing is changed, and note what is going to be."""
    origin, target, restore = wish.origin, wish.target, wish.restore
    name = origin.name
    with files.locked(layout.lock), store.lease(layout), ExitStack() as undo:
        image = composing.image_of(layout, target)
        network = connecting.settle(layout, name, target.network, origin.network)
        target = records.replace(target, network=network)
        install.check_host(layout, target, image)
        composing.render(target, image, layout)
        before = composing.image_of(layout, origin) if wish.keep_data else None
        data = set(snapshots.mounted(origin, before)) if before else set()
        data |= set(snapshots.find(layout, name, restore).volumes) if restore else set()
        restoring.require_unused(manager, layout, name, data)
        item = Pending(
            wish.kind,
            time.time(),
            _boot(),
            origin,
            target,
            snapshots.free_label(snapshots.labels(layout, name), f"{wish.kind}-") if wish.keep_data else None,
            restore,
            manager.get(origin.unit, "ActiveState", "s") not in _GONE,
            not target.ephemeral and not bundle.writable_layer(target, layout).exists(),
        )
        upgrade_record.begin(layout, name, item)
        undo.callback(upgrade_record.end, layout, name)
        undo.callback(_discard_layer, layout, item)
        if not target.ephemeral:
            storage.driver(target.storage).make(layout, target, composing.roots(layout, image))
        install.make_volumes(layout, target, image, undo)
        undo.pop_all()
    return item


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _discard_layer(layout: Layout, item: Pending) -> None:
    if item.new_layer:
        storage.driver(item.target.storage).remove(bundle.writable_layer(item.target, layout))


def _change(manager: Manager, layout: Layout, item: Pending, settle: float) -> None:
    """Everything between the old container and the new one; raises GearError when the new one does not come up."""
    copies = item.snapshot is not None or item.restore is not None
    keep = _keeps_sockets(layout, item.origin, item.target, copies=copies)
    with _clients_waiting(item, keep=keep):
        if item.ran and copies:
            _stop(manager, item.origin, keep=keep)
        if item.snapshot is not None:
            snapshots.take(manager, layout, item.origin.name, item.snapshot, volumes=True)
        freed = _switch(manager, layout, item.target, item.restore)
        if item.ran:
            if not copies:
                _stop(manager, item.origin, keep=keep)
            _start(manager, layout, item.target)
    if item.ran:
        _settle(manager, item.target, settle)
    # Not sooner: what is taken back needs them again.
    allocation.give_back(freed)


def _keeps_sockets(layout: Layout, before: Spec, after: Spec, *, copies: bool) -> bool:
    """Whether PID 1 listens for the one as for the other, so that clients may wait from one to the next."""
    listening = units.render_sockets(before, layout)
    same = bool(listening) and listening == units.render_sockets(after, layout)
    # The next connection to a socket of mode fd starts the container, which must not run while it is copied.
    return same and not (copies and before.network.served_by(FD))


@contextmanager
def _clients_waiting(item: Pending, *, keep: bool) -> Iterator[None]:
    with draining.holding(item.origin.name) if keep and item.ran else nullcontext():
        yield


def _stop(manager: Manager, spec: Spec, *, keep: bool) -> None:
    """Stop the container, and with *keep* not the sockets on which PID 1 listens for it."""
    if keep:
        draining.drain(manager, spec, DRAIN_S)
    result = (manager.stop_alone if keep else manager.stop)([spec.unit])[spec.unit]
    if result != "done":
        raise GearError(f"it could not be stopped: {result.rstrip('.')}.")
    lifecycle.settle(manager, spec.unit)


def _start(manager: Manager, layout: Layout, spec: Spec) -> None:
    """Start the container and wait until it is ready; raises GearError that says why it is not."""
    manager.reset_failed(spec.unit)
    sockets.prepare(manager, layout, spec)
    listening = activation.sockets(spec) if spec.network.on_demand else []
    results = manager.start([*listening, spec.unit])
    for unit, result in results.items():
        if result != "done":
            closed = sockets.failed(manager, spec)
            raise (
                sockets.why(manager, layout, spec, closed)
                if closed
                else lifecycle.why(manager, spec, results[unit])
            )


def _settle(manager: Manager, spec: Spec, seconds: float) -> None:
    """Raise GearError unless the payload that was started stays up for *seconds*."""
    first = manager.get(spec.unit, "InvocationID", "ay")
    deadline = time.monotonic() + seconds
    while True:
        state = manager.get(spec.unit, "ActiveState", "s")
        idle = spec.network.idle_stop is not None and state == "inactive"
        if idle:
            return
        if state not in _UP or manager.get(spec.unit, "InvocationID", "ay") != first:
            run = bytes(first or b"").hex()
            why = lifecycle.why(manager, spec, f"it was {state} after its start", run)
            raise GearError(
                why.message.replace(" did not start:", f" did not stay up for {seconds:g} s:", 1),
                details=why.details,
                hint=why.hint,
            )
        if time.monotonic() >= deadline:
            return
        time.sleep(_PAUSE_S)


def _switch(manager: Manager, layout: Layout, spec: Spec, restore: str | None) -> set[Path]:
    """Replace the files of the container, and volumes by those of the snapshot *restore*; returns what is free then."""
    name = spec.name
    with files.locked(layout.lock), store.lease(layout), ExitStack() as stack:
        switching.finish(layout, name)
        found = None
        if restore is not None:
            found = snapshots.find(layout, name, restore)
            stack.callback(os.close, inside.claim(layout, name))
            if inside.if_running(manager, layout, name) is not None:
                raise GearError(f"{name} was started meanwhile, so its volumes are not replaced.")
            restoring.require_unused(manager, layout, name, found.volumes)

        def stage(undo: ExitStack) -> list[switching.Exchange]:
            return restoring.stage_volumes(layout, found, undo) if found is not None else []

        what = f"the image {spec.image.reference} ({spec.image.digest})"
        freed = restoring.exchange(layout, spec, composing.image_of(layout, spec), what, stage)
    publishing.acquaint(manager, layout, [name])
    return freed


def _is(spec: Spec | None, other: Spec) -> bool:
    return spec is not None and spec.to_mapping() == other.to_mapping()


def _undo(manager: Manager, layout: Layout, item: Pending, reason: str) -> Entry:
    """Make the container what it was before; raises GearError when that fails, and then the next run tries again."""
    name = item.origin.name
    if item.failed is None:
        item = records.replace(item, failed=reason)
        upgrade_record.begin(layout, name, item)
    kept = item.snapshot if item.snapshot in snapshots.labels(layout, name) else None
    keep = _keeps_sockets(layout, item.origin, item.target, copies=kept is not None)
    current = containers.get(layout, name)
    failure: GearError | None = None
    with _clients_waiting(item, keep=keep):
        if _is(current, item.target):
            if manager.get(item.origin.unit, "ActiveState", "s") not in _GONE:
                _stop(manager, item.origin, keep=keep)
            allocation.give_back(_switch(manager, layout, item.origin, kept))
        elif not _is(current, item.origin):
            failure = GearError(f"{name} was changed by somebody else meanwhile, and is left as it is.")
        if item.ran and failure is None and manager.get(item.origin.unit, "ActiveState", "s") not in _UP:
            try:
                _start(manager, layout, item.origin)
            except GearError as error:
                failure = error
    entry = item.entry(UNDONE, reason)
    with files.locked(layout.lock):
        upgrade_record.write(layout, name, upgrade_record.read(layout, name).noted(entry))
        upgrade_record.end(layout, name)
        if _is(containers.existing(layout, name), item.origin):
            _discard_layer(layout, item)
    if kept is not None:
        snapshots.remove(layout, name, kept)
    if failure is not None:
        raise GearError(
            f"{name} is not upgraded: {reason}  Then: {failure.message}",
            details=failure.details,
            hint=failure.hint,
        )
    return entry


def _commit(layout: Layout, item: Pending, result: str) -> Entry:
    """Remember what was before, and that it is over; the snapshot of the one before that goes."""
    name, entry = item.origin.name, item.entry(result)
    with files.locked(layout.lock):
        record = upgrade_record.read(layout, name)
        kept = item.snapshot if item.snapshot in snapshots.labels(layout, name) else None
        upgrade_record.write(layout, name, Record(item.origin, kept, record.history).noted(entry))
        upgrade_record.end(layout, name)
    if record.snapshot is not None and record.snapshot in snapshots.labels(layout, name):
        snapshots.remove(layout, name, record.snapshot)
    return entry


def _finish(manager: Manager, layout: Layout, name: str) -> Entry | None:
    """Finish what was interrupted if its payload has come up, undo it otherwise.  The caller owns the container."""
    item = upgrade_record.pending(layout, name)
    if item is None:
        return None
    draining.release(name)
    with files.locked(layout.lock):
        finished = switching.finish(layout, name)
    if finished:
        publishing.acquaint(manager, layout, [name])
    history = upgrade_record.read(layout, name).history
    if history and (history[-1].time, history[-1].kind) == (item.began, item.kind):
        with files.locked(layout.lock):
            upgrade_record.end(layout, name)
        return history[-1]
    switched = _is(containers.existing(layout, name), item.target)
    if item.failed is None and switched and (not item.ran or _came_up(manager, item)):
        return _commit(layout, item, INTERRUPTED)
    return _undo(manager, layout, item, item.failed or "gear was interrupted.")


def _came_up(manager: Manager, item: Pending) -> bool:
    """Whether the new payload was ready once.  What it has written since then is not thrown away; and after a boot
    nobody can tell any more."""
    if item.boot != _boot():
        return True
    return float(manager.get(item.target.unit, "ActiveEnterTimestamp", "t")) / 1e6 > item.began
