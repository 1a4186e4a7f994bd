"""A second container like one that is there, with what that one has written, and nothing shared but its image.

What is made before the new container exists is noted in `clone.json` in its directory, so that the same command or
`gear clean` takes away what one that was killed has left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from gear import (
    allocation,
    bundle,
    composing,
    containers,
    contents,
    files,
    install,
    pausing,
    records,
    removal,
    storage,
    store,
    switching,
    uids,
    volumestore,
)
from gear.errors import GearError, UsageError
from gear.install import Installed
from gear.model import Layout, container_name
from gear.mounting import Mount, volume_name
from gear.network import Interface, Network
from gear.oci import Image
from gear.spec import UID_RANGE_SIZE, Spec
from gear.systemd import Manager


def clone(
    manager: Manager, layout: Layout, name: str, new: str, *, volumes: bool = False, pause: bool = True
) -> Installed:
    """Make the container *new* of *name*, which must not be there yet.

    It has user ids, a name and volumes of its own: with what the image has in them, or with *volumes* what those of
    *name* have.  Binds stay what they are.  A container that runs is paused meanwhile unless *pause* is False.
    """
    new = container_name(new)
    with files.locked(layout.lock), store.lease(layout), ExitStack() as undo:
        switching.finish(layout, name)
        old = containers.get(layout, name)
        if _is_unfinished_clone(layout, name, new):
            done = install.apply(
                layout, found := containers.get(layout, new), composing.image_of(layout, found)
            )
            files.remove_file(_note(layout, new))
            return done
        forget(layout, new)
        if containers.exists(layout, new):
            raise GearError(
                f"There is a container {new} already.", hint=f"Choose another name, or: gear delete {new}"
            )
        image = composing.image_of(layout, old)
        spec, renamed = renewed(old, new)
        copied = _volumes(layout, old, image, spec, renamed)
        undo.callback(_undo, layout, new, list(copied.values()))
        _begin(layout, name, spec, list(copied.values()))
        if spec.own_ids:
            spec = records.replace(spec, uid_base=uids.allocate(layout, new))
        with pausing.still(manager, layout, name, pause=pause):
            if not spec.ephemeral:
                driver = storage.driver(spec.storage)
                shift = spec.uid_base - old.uid_base if driver.is_shifted else 0
                target = bundle.writable_layer(spec, layout)
                driver.snapshot(contents.writable(layout, old), target, shift=shift)
            for source, volume in copied.items() if volumes else ():
                _copy_volume(layout, source, volume)
        done = install.apply(layout, spec, image)
        undo.pop_all()
        files.remove_file(_note(layout, new))
        return done


def renewed(old: Spec, new: str) -> tuple[Spec, Mapping[str, str]]:
    """The specification for *new*, and the volumes that it has instead of those of *old*, by the names of those.

    Whatever only one container can have is another: name, user ids, volumes, addresses, ports.  Raises UsageError.
    """
    isolation = old.isolation
    if isolation.id_range is not None:
        if isolation.id_range[1] > UID_RANGE_SIZE:
            raise UsageError(
                f"{old.name} can't be cloned: it has {isolation.id_range[1]} user ids, and new ranges have "
                f"{UID_RANGE_SIZE}."
            )
        isolation = records.replace(isolation, userns="auto")
    renamed: dict[str, str] = {}
    mounts = []
    for mount in old.mounts:
        if mount.kind == "volume":
            name = renamed.setdefault(mount.source, bundle.anonymous_volume(new, mount.destination))
            mount = Mount(mount.kind, volume_name(name), mount.destination, mount.options)
        mounts.append(mount)
    return records.replace(
        old,
        name=new,
        isolation=isolation,
        mounts=tuple(mounts),
        hostname=None if old.hostname == old.name else old.hostname,
        network=_renewed_network(old.network),
    ), renamed


def _renewed_network(old: Network) -> Network:
    """The same networks with addresses still to be chosen, and the same ports inside on free ones of the host."""
    interfaces = tuple(
        Interface(item.network, item.interface, aliases=item.aliases) for item in old.interfaces
    )
    ports = tuple(records.replace(port, external=0) for port in old.ports)
    return records.replace(old, interfaces=interfaces, ports=ports)


def _volumes(
    layout: Layout, old: Spec, image: Image, new: Spec, renamed: Mapping[str, str]
) -> dict[str, str]:
    """The volumes of *old*, and what those of *new* are called that are to be made; raises GearError when one is."""
    places = {mount.destination: mount for mount in bundle.effective_mounts(new, image)}
    found = {}
    for mount in bundle.effective_mounts(old, image):
        if mount.kind == "volume":
            found[mount.source] = renamed.get(mount.source, places[mount.destination].source)
    for volume in found.values():
        if (layout.volumes / volume).exists():
            raise GearError(
                f"{new.name} can't have a volume of its own: there is one called {volume} already.",
                hint="Choose another name; gear clean --volumes removes volumes that no container uses.",
            )
    return found


def _copy_volume(layout: Layout, source: str, volume: str) -> None:
    """Make *volume* with the data of *source*, if there is any yet."""
    data = bundle.volume_directory(layout, source)
    if data.exists():
        volumestore.clone(layout, source, volume)


def _note(layout: Layout, name: str) -> Path:
    return layout.containers / name / "clone.json"


def _begin(layout: Layout, name: str, spec: Spec, volumes: list[str]) -> None:
    """Make the directory of a container to be, and note what else is going to be made for it."""
    files.make_directory(layout.volumes, 0o700)
    files.make_directory(layout.containers / spec.name, 0o700)
    files.write_atomic(_note(layout, spec.name), files.dump_json({"of": name, "volumes": volumes}), 0o600)


def abandoned(layout: Layout, name: str) -> bool:
    """Whether a gear that was killed was making *name* as a clone; the caller holds the lock."""
    return _note(layout, name).exists()


def _is_unfinished_clone(layout: Layout, name: str, new: str) -> bool:
    """Whether *new* is a clone of *name* that has a specification already, but perhaps not all that follows."""
    document = files.read_json(_note(layout, new))
    named = isinstance(document, dict) and document.get("of") == name
    return named and containers.spec_path(layout, new).exists()


def forget(layout: Layout, name: str) -> None:
    """Take away what is left of a clone that did not come to be, or the note of one that did; the caller holds the
    lock."""
    document, directory = files.read_json(_note(layout, name)), layout.containers / name
    if containers.spec_path(layout, name).exists():
        files.remove_file(_note(layout, name))
    elif isinstance(document, dict):
        _undo(layout, name, [volume_name(str(volume)) for volume in document.get("volumes", ())])
    elif directory.is_dir() and all(entry.startswith(files.PARTIAL) for entry in os.listdir(directory)):
        # It was killed before it could note anything.
        removal.remove_tree(directory)


def _undo(layout: Layout, name: str, volumes: Sequence[str]) -> None:
    for volume in volumes:
        volumestore.remove(layout, volume)
    uids.release(layout, name)
    allocation.give_back(allocation.held(layout, name))
    removal.remove_tree(layout.containers / name)
