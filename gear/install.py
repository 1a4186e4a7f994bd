"""Installing: from a request to published files, all or nothing.

What is published is what gear/composing.py renders.  Nothing here starts anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gear import (
    allocation,
    bundle,
    composing,
    connecting,
    containers,
    effects,
    files,
    host,
    lifecycle,
    neighbours,
    notices,
    objects,
    provision,
    publishing,
    records,
    removal,
    replacing,
    sockets,
    storage,
    store,
    switching,
    uids,
    units,
    volumestore,
)
from gear.errors import GearError, UsageError
from gear.isolation import Isolation
from gear.model import Layout
from gear.network import NAT
from gear.oci import Image
from gear.outline import ImageRef
from gear.records import dataclass
from gear.spec import STORAGE_DRIVERS, Spec
from gear.supplies import SECRET
from gear.systemd import booted
from gear.view import View


@dataclass(frozen=True)
class Installed:
    """What an install did to one container."""

    spec: Spec
    created: bool
    changes: tuple[str, ...]  # members of the spec, and files that had been altered; empty: nothing was to do


def request(layout: Layout, name: str, image: Image, options: Mapping[str, Any]) -> Spec:
    """The spec for *name* with *options* (fields of Spec); an id range is kept, or a preview of the next one.

    A storage driver of None is the one that the container has, or what is configured for new ones.
    """
    old = containers.existing(layout, name)
    driver = options.get("storage")
    if driver is None and composing.is_directory(image.reference):
        driver = STORAGE_DRIVERS[0]  # a directory of the host is never copied
    elif driver is None:
        driver = old.storage if old else storage.configured(layout)
    isolation: Isolation = options.get("isolation", Isolation())
    if isolation.userns == "host":
        base = 0
    elif isolation.id_range is not None:
        base = isolation.id_range[0]
    else:
        base = old.uid_base if old and old.isolation.userns == "auto" else uids.FIRST
    return Spec(
        name=name,
        image=ImageRef(image.reference, image.digest),
        uid_base=base,
        **{**options, "storage": driver},
    )


def install(
    layout: Layout, name: str, image_text: str, options: Mapping[str, Any], digest: str | None = None
) -> Installed:
    """Create or replace the container *name*; raises GearError and leaves what was there before.

    With a *digest* it is that image, and *image_text* only what it is called.
    """
    with files.locked(layout.lock), store.lease(layout):
        switching.finish(layout, name)
        image = composing.resolve(layout, digest or image_text)
        if digest is not None:
            image = records.replace(image, reference=image_text)
        spec = request(layout, name, image, options)
        return apply(layout, spec, image)


def prepare_run(
    layout: Layout, name: str, image_text: str, options: Mapping[str, Any], run: containers.Run
) -> tuple[Spec, Image, int]:
    """The files of a container that is run and not installed; the name must be free.

    The last item is a descriptor with a lock, by which `gear clean` knows that somebody looks after it.
    """
    with files.locked(layout.lock), store.lease(layout):
        if containers.exists(layout, name):
            raise GearError(
                f"There is a container {name} already.", hint=f"Choose another --name, or: gear delete {name}"
            )
        image = composing.resolve(layout, image_text)
        spec = request(layout, name, image, options)
        containers.require_installed(spec)
        files.make_directory(layout.containers, 0o700)
        files.make_directory(layout.containers / name, 0o700)
        try:
            volumes = [
                volume
                for volume in sorted(units.declared_volumes(spec, image))
                if not (layout.volumes / volume).exists()
            ]
            document = files.dump_json({"kind": run.kind, "remove": run.remove, "volumes": volumes})
            files.write_atomic(containers.run_path(layout, name), document, 0o600)
            spec = apply(layout, spec, image).spec
            owner = os.open(layout.containers / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(owner, fcntl.LOCK_EX)
            return spec, image, owner
        except BaseException:
            if not containers.spec_path(layout, name).exists():
                removal.remove_tree(layout.containers / name)
            raise


def apply(layout: Layout, spec: Spec, image: Image) -> Installed:
    """Publish everything that *spec* renders to.  The caller holds the lock and a lease of the store."""
    name = spec.name
    old = containers.existing(layout, name)
    host.require_controllers(spec)
    spec = settled(layout, spec, old)
    # Rendered first with whatever range: it finds every fault of the request before anything is written.
    check_host(layout, spec, image)
    composing.render(spec, image, layout)
    publishing.publish_helper(layout)
    # What the container's unit needs is there before it, also when power is cut between.
    publishing.publish_static_units(layout, missing=True)
    with contextlib.ExitStack() as undo:
        if old is None:
            undo.callback(uids.release, layout, name)
        had = allocation.held(layout, name)
        undo.callback(lambda: allocation.give_back(allocation.held(layout, name) - had))
        connecting.take(layout, name, spec.network)
        if old is None or old.isolation.userns != spec.isolation.userns:
            spec = records.replace(spec, uid_base=_take_ids(layout, spec))
        if old is None:
            if not containers.spec_path(layout, name).exists():
                undo.callback(removal.remove_tree, layout.containers / name)
        rendered = composing.render(spec, image, layout)
        changed = composing.compare(rendered)
        _make_directories(layout, spec, image, undo)
        with neighbours.told(layout, name, spec):
            replacing.replace(changed)
        sockets.remove_files(layout, name, keep=rendered)
        _remove_configs(layout, name, rendered)
        if old is not None and old.network.served_by(NAT) and not spec.network.interfaces and booted():
            # Its unit no longer does this when it ends; so what runs is not reached from now on.
            connecting.unpublish(layout, name)
        undo.pop_all()
    _give_back(layout, spec, had - allocation.wanted(layout, spec.network))
    changes = [] if old is None else [change.member for change in effects.between(old, spec)]
    if old is not None and not changes:
        changes = [str(path) for path in changed]
    if old is None or changes:
        notices.note(
            "install" if old is None else "change",
            CONTAINER_NAME=name,
            IMAGE_NAME=image.reference,
            IMAGE_DIGEST=image.digest,
        )
    return Installed(spec, old is None, tuple(changes))


def _remove_configs(layout: Layout, name: str, rendered: Collection[Path]) -> None:
    """Remove the files of configs that the container has no more; what runs keeps them mounted."""
    for path in (layout.containers / name).glob(f"{provision.PREFIX}*"):
        if path not in rendered:
            files.remove_file(path)


def _give_back(layout: Layout, spec: Spec, links: set[Path]) -> None:
    """Free addresses and ports that *spec* no longer has, unless its payload runs and so uses them still."""
    if links and not lifecycle.runs_with_earlier(layout, spec):
        allocation.give_back(links)


def _take_ids(layout: Layout, spec: Spec) -> int:
    """Take the user ids that *spec* asks for; returns the first one."""
    if not spec.own_ids:
        return 0
    if spec.isolation.id_range is not None:
        return uids.take(layout, spec.name, *spec.isolation.id_range)
    return uids.allocate(layout, spec.name)


def preview(layout: Layout, spec: Spec, image: Image) -> dict[Path, tuple[bytes | None, bytes]]:
    """What apply() would write: (found, rendered) by path.  Nothing is changed."""
    spec = settled(layout, spec, containers.existing(layout, spec.name))
    check_host(layout, spec, image)
    return composing.compare(composing.render(spec, image, layout))


def settled(layout: Layout, spec: Spec, old: Spec | None) -> Spec:
    """*spec* with what is still to be chosen of its network; *old* is what the container is."""
    network = connecting.settle(layout, spec.name, spec.network, old.network if old else None)
    found = records.replace(spec, network=network)
    neighbours.require_unambiguous(layout, found)
    return found


def check_host(layout: Layout, spec: Spec, image: Image) -> None:
    """Raise GearError for what the container takes from this machine and is not there."""
    host.require_security(spec)
    for secret in spec.supplies.names(SECRET):
        objects.require(layout, SECRET, secret)
    host.require_address_filter(spec)
    host.require_devices(spec.name, spec.resources)
    if not spec.ephemeral:
        storage.driver(spec.storage).require(layout)
    if (zone := composing.zone_of_host(spec, image, layout)) is not None:
        host.require_zone(zone)
    for mount in spec.mounts:
        if mount.kind == "bind" and not os.path.lexists(mount.source):
            raise UsageError(
                f"{spec.name} can't have {mount.source} mounted: there is no such file or directory on this machine.",
                hint=f"mkdir -p {mount.source}",
            )


def _make_directories(layout: Layout, spec: Spec, image: Image, undo: contextlib.ExitStack) -> None:
    """The directories a container needs, each complete when it appears."""
    files.make_directory(layout.state)
    files.make_directory(layout.containers, 0o700)
    files.make_directory(layout.containers / spec.name, 0o700)
    for path in (layout.containers / spec.name).glob(f"{files.PARTIAL}*"):
        _discard(path)  # of a run that was cut off; the lock keeps everybody else away
    files.make_directory(layout.containers / spec.name / "rootfs")
    files.make_directory(layout.units)
    if not spec.ephemeral:
        storage.driver(spec.storage).make(layout, spec, composing.roots(layout, image))
    make_volumes(layout, spec, image, undo)


def make_volumes(
    layout: Layout, spec: Spec, image: Image, undo: contextlib.ExitStack, *, but: Collection[str] = ()
) -> None:
    """The named volumes that are missing, but for those in *but*; *undo* removes them."""
    files.make_directory(layout.volumes, 0o700)
    # A new volume gets what an image has there, but no copy of the host's own files.
    roots = [] if spec.image.directory is not None else composing.roots(layout, image)
    for mount in bundle.effective_mounts(spec, image):
        if mount.kind != "volume" or mount.source in but:
            continue
        volume, known = mount.source, (layout.volumes / mount.source).exists()
        if not bundle.volume_directory(layout, volume).exists():
            record = volumestore.new_record(anonymous=mount not in spec.mounts)
            # Files keep the ids they have in the image: the mount shifts them, so a volume can change containers.
            with volumestore.making(layout, volume, record) as data:
                View(roots).copy_tree(mount.destination, data)
            if not known:
                undo.callback(volumestore.remove, layout, volume)
        elif volumestore.seeds(layout, volume):
            _seed(layout, volume, View(roots), mount.destination)


def _discard(path: Path) -> None:
    if path.is_dir():
        removal.remove_tree(path)
    else:
        files.remove_file(path)


def _seed(layout: Layout, name: str, view: View, destination: str) -> None:
    """Fill a volume that was made empty for its first container, as Docker does it."""
    directory, record = layout.volumes / name, volumestore.record(layout, name)
    with volumestore.replacing(directory, record.size) as data:
        view.copy_tree(destination, data)
    volumestore.write_record(directory, records.replace(record, seed=False))
