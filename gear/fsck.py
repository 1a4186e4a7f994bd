"""Checking everything that gear keeps, and mending what can be mended.

Not what is looked for (gear/checking.py, gear/record_check.py, gear/container_check.py, gear/leftovers.py, and in what
runs gear/running_check.py and gear/network_repair.py): the order of it, and what becomes of each finding.  Data of
volumes and of writable layers is never removed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from gear import (
    composing,
    container_check,
    containers,
    files,
    imagemounts,
    leftovers,
    network_repair,
    publishing,
    record_check,
    running_check,
    slices,
)
from gear.checking import StoreCheck
from gear.errors import GearError
from gear.findings import Finding
from gear.mending import Outcome, treat
from gear.model import Layout
from gear.systemd import Manager, booted


def fsck(layout: Layout, *, quick: bool = False, repair: bool = False) -> Iterator[Outcome]:
    """Everything that is wrong, as it is found; with *repair* mended right away where that can be done.

    Containers are not changed by others meanwhile, but for the store, whose check takes longest: there pulls, installs
    and removals go on.
    """
    if not layout.state.is_dir():
        return
    if layout.images.is_dir():
        images = StoreCheck(layout, partial(_not_running, layout), quick=quick)
        for finding in chain(images.everything(), record_check.check(layout, images.again, quick=quick)):
            yield treat(finding, repair=repair)
    changed = False
    with files.locked(layout.lock):
        for finding in chain(container_check.check(layout), slices.check(layout)):
            outcome = treat(finding, repair=repair)
            changed = changed or outcome.mended
            yield outcome
        for finding in _leftovers(layout):
            yield treat(finding, repair=repair)
    if not booted():
        return
    with Manager() as manager:
        if changed:
            publishing.acquaint(manager, layout, containers.names(layout))
        with files.locked(layout.lock):
            for finding in running_check.check(manager, layout):
                yield treat(finding, repair=repair)
            yield from network_repair.check_kernel(manager, layout, repair=repair)


def _leftovers(layout: Layout) -> Iterator[Finding]:
    """What interrupted commands left, and what no image needs; what anybody wrote to is for `gear clean` to remove."""
    for item in imagemounts.mounted(layout, ("self",)):
        if not item.whole:
            unmount = partial(imagemounts.unmount, layout, item.directory, None)
            what = f"is left over: the image {item.digest} was to be mounted there"
            yield Finding(Path(item.directory), what, damage=False, mend=unmount)
    try:
        for left in leftovers.leftovers(layout):
            if not left.holds_data:
                yield Finding(left.path, f"is left over: {left.what}", damage=False, mend=left.remove)
    except GearError as error:
        # What is damaged has been told, and until it is mended nobody knows what is garbage.
        yield Finding(
            layout.state,
            f"may hold more that is left over, which can't be told: {error.message}",
            damage=False,
        )


def _not_running(layout: Layout, diff_id: str) -> None:
    """Raise GearError while somebody's root file system is made of the layer *diff_id*."""
    users = []
    for item in imagemounts.mounted(layout):
        if diff_id in _layers(layout, item.digest):
            users.append((f"the mount on {item.directory}", f"gear image unmount {item.directory}"))
    for name in containers.names(layout):
        spec = containers.existing(layout, name)
        if spec is not None and diff_id in _layers(layout, spec.image.digest) and _is_active(layout, name):
            users.append((f"the container {name}", f"gear stop {name}"))
    if users:
        raise GearError(
            f"The layer is in use by {', '.join(who for who, _ in users)}: end that with "
            f"{' and '.join(how for _, how in users)}, then run gear fsck --repair again.",
        )


def _layers(layout: Layout, digest: str) -> tuple[str, ...]:
    try:
        return composing.resolve(layout, digest).layers if digest else ()
    except GearError:
        return ()


def _is_active(layout: Layout, name: str) -> bool:
    if not booted():
        return False
    with Manager() as manager:
        state: str = manager.get(containers.unit_of(layout, name), "ActiveState", "s")
    return state not in ("inactive", "failed")
