"""Named volumes: made, listed, limited and removed; and which containers have them.

How they are kept is gear/volumestore.py's, copies of them gear/volume_copies.py's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from gear import (
    bundle,
    composing,
    containers,
    files,
    footprint,
    inside,
    leftovers,
    pausing,
    quotas,
    records,
    store,
    volumestore,
)
from gear.errors import GearError, NotFoundError, UsageError
from gear.model import Layout
from gear.records import dataclass
from gear.systemd import Manager
from gear.view import View


@dataclass(frozen=True)
class Wishes:
    """What `gear volume create` is told beside the name."""

    labels: Mapping[str, str] = records.field(default_factory=dict)
    size: int | None = None
    owner: tuple[int, int] | None = None  # as inside
    mode: int | None = None
    image: str | None = None  # the image whose files it begins with, and where in it
    path: str = "/"


def create(layout: Layout, name: str, wishes: Wishes) -> bool:
    """Make the volume *name*; False when there is one with these labels and this limit already.

    Without an image it is filled by its first container, as one that is made on demand, unless it has an owner or
    mode of its own.  Raises GearError, also when the volume is another.
    """
    with files.locked(layout.lock), store.lease(layout):
        if (layout.volumes / name).exists():
            found = volumestore.record(layout, name)
            if (dict(found.labels), found.size) == (dict(wishes.labels), wishes.size) and not wishes.image:
                return False
            raise GearError(
                f"There is a volume {name} already, with other labels or another limit.",
                hint=f"gear volume resize {name} SIZE changes its limit; gear volume rm {name} removes it.",
            )
        roots = []
        if wishes.image is not None:
            image = composing.resolve(layout, wishes.image)
            roots = composing.roots(layout, image)
        plain = wishes.image is None and wishes.owner is None and wishes.mode is None
        record = volumestore.new_record(wishes.labels, wishes.size, seed=plain)
        with volumestore.making(layout, name, record) as data:
            if wishes.image is not None and not View(roots).copy_tree(wishes.path, data):
                raise NotFoundError(f"The image {wishes.image} has no directory {wishes.path}.")
            if wishes.owner is not None:
                os.chown(data, *wishes.owner)
            if wishes.mode is not None:
                os.chmod(data, wishes.mode)
        return True


def users(layout: Layout) -> dict[str, list[str]]:
    """The containers that have each volume, or had it when a snapshot was taken that is kept; sorted."""
    found: dict[str, set[str]] = {}
    for container in containers.names(layout):
        for volume in leftovers.mounted(layout, container):
            found.setdefault(volume, set()).add(container)
    return {volume: sorted(names) for volume, names in found.items()}


def details(layout: Layout, name: str, used_by: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The members of `gear volume inspect`, described in gear(1).  Raises NotFoundError and IntegrityError."""
    volumestore.require(layout, name)
    record, data = volumestore.record(layout, name), bundle.volume_directory(layout, name)
    with files.explained(f"look at the volume {name}"):
        status = os.stat(data)
    return {
        "name": name,
        "driver": volumestore.driver(layout, name),
        "path": str(data),
        "created": record.created,
        "labels": dict(record.labels),
        "anonymous": record.anonymous,
        "used": footprint.of(data),
        "size": record.size,
        "limit": quotas.limit_of(data),
        "owner": {"uid": status.st_uid, "gid": status.st_gid, "mode": f"{status.st_mode & 0o7777:04o}"},
        "snapshots": volumestore.snapshots(layout, name),
        "containers": list(used_by.get(name, ())),
    }


def resize(layout: Layout, name: str, size: int | None) -> bool:
    """Limit a volume to *size* bytes, or with None not at all; False when it is so already.

    It holds at once, for containers that run as well.  What there is already stays, even if it is more.
    """
    with files.locked(layout.lock), volumestore.held(layout, name) as directory:
        record, data = volumestore.record(layout, name), bundle.volume_directory(layout, name)
        if record.size == size == quotas.limit_of(data):
            return False
        # Between the two gear may be killed: `gear fsck` tells of it then.
        quotas.limit(data, size, f"the volume {name}")
        volumestore.write_record(directory, records.replace(record, size=size))
        return True


def remove(layout: Layout, name: str) -> bool:
    """Remove a volume with its snapshots; False when there is none.  Raises GearError while a container has it."""
    with files.locked(layout.lock):
        if not os.path.lexists(layout.volumes / name):
            return False
        if used_by := users(layout).get(name):
            raise GearError(
                f"The volume {name} is not removed: {', '.join(used_by)} {'has' if len(used_by) == 1 else 'have'} it.",
                hint=f"gear delete {used_by[0]}, or install it without the volume.",
            )
        volumestore.remove(layout, name)
        return True


def unused(layout: Layout, *, named: bool, labels: Sequence[tuple[str, str | None]] = ()) -> list[str]:
    """The volumes that no container has: those that images declared, and with *named* all others, too.

    The caller holds the lock where it matters.  *labels* are wanted ones; None is any value.
    """
    used_by = users(layout)
    found = []
    for name in volumestore.names(layout):
        if name in used_by:
            continue
        record = volumestore.record(layout, name)
        fits = all(
            label in record.labels and value in (None, record.labels[label]) for label, value in labels
        )
        if fits and (named or record.anonymous):
            found.append(name)
    return found


@contextmanager
def still(manager: Manager, layout: Layout, name: str, *, pause: bool) -> Iterator[None]:
    """Nothing writes to the volume *name*: containers that have it are frozen if they run, unless *pause* is False,
    and not started if they don't."""
    with ExitStack() as stack:
        for container in current_users(layout, name):
            stack.enter_context(pausing.still(manager, layout, container, pause=pause))
        yield


@contextmanager
def stopped(manager: Manager, layout: Layout, name: str, doing: str) -> Iterator[None]:
    """No container that has the volume *name* runs, or is started meanwhile; raises GearError when one does."""
    with ExitStack() as stack:
        for container in current_users(layout, name):
            if inside.if_running(manager, layout, container) is None:
                stack.callback(os.close, inside.claim(layout, container))
                if inside.if_running(manager, layout, container) is None:
                    continue
            raise GearError(
                f"The volume {name} is not {doing}: {container} runs, and has it.",
                hint=f"gear stop {container}",
            )
        yield


def current_users(layout: Layout, name: str) -> list[str]:
    """The containers that have the volume *name* by what they are installed with now."""
    found = []
    for container in containers.names(layout):
        spec = containers.get(layout, container)
        try:
            mounts = bundle.effective_mounts(spec, composing.image_of(layout, spec))
        except NotFoundError:  # the image is gone, and with it what it declares
            mounts = spec.mounts
        if any(mount.kind == "volume" and mount.source == name for mount in mounts):
            found.append(container)
    return found


def source_of(text: str) -> tuple[str, str]:
    """`IMAGE:/PATH` of --from-image; raises UsageError."""
    image, colon, path = text.rpartition(":/")
    if not colon or not image:
        raise UsageError(f"{text!r} names no directory of an image.", hint="Write IMAGE:/DIRECTORY.")
    return image, f"/{path}"
