"""What everything of gear takes on the disk, and what of it could be had back: `gear df`.

Counted as du(1) does: what is in several places counts once, with the first of downloads, images, snapshots, volumes
and containers; what reflinks and snapshots of btrfs share counts wherever it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gear import (
    bundle,
    containers,
    files,
    footprint,
    garbage,
    images,
    leases,
    leftovers,
    snapshots,
    store,
    volumes,
    volumestore,
)
from gear.model import Layout
from gear.records import dataclass, field


@dataclass(frozen=True)
class Kind:
    """All of one kind: what it takes, what of it could go, and each of them."""

    kind: str
    bytes: int
    reclaimable: int
    verb: str  # what gives that back
    items: list[dict[str, Any]] = field(default_factory=list)
    # How many of the items are in use.
    active: int = 0

    def document(self) -> dict[str, Any]:
        """The members of `gear df --output json`, described in gear(1)."""
        return {
            "kind": self.kind,
            "count": len(self.items),
            "active": self.active,
            "bytes": self.bytes,
            "reclaimable": self.reclaimable,
            "verb": self.verb,
            "items": self.items,
        }


class _Sizes:
    """The bytes of each path that is part of the count, from one run of du."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._found = footprint.each(list(dict.fromkeys(paths)))

    def of(self, paths: Iterable[Path]) -> int:
        return sum(self._found.get(path, 0) for path in paths)


def kinds(layout: Layout) -> list[Kind]:
    """Images, containers, volumes, snapshots and downloads.  Raises GearError when something of them can't be read."""
    with files.locked(layout.lock), store.lease(layout):
        needed = {digest: garbage.needs(layout, digest) for digest in store.held(layout)}
        used_images, used_volumes = set(images.in_use(layout)), volumes.users(layout)
        rest = {item.path for item in leftovers.leftovers(layout)}
        pinned = leases.pinned(layout)
    downloads = sorted((layout.images / "downloads").glob("*/*"))
    kept = _snapshots(layout)
    inner = [path for _, _, path in kept]
    made = {name: layout.volumes / name for name in volumestore.names(layout)}
    here = {name: layout.containers / name for name in containers.names(layout)}
    writable = {name: bundle.writable_layer(containers.get(layout, name), layout) for name in here}
    # What is inside of another is named before it, and so counts for itself.
    sizes = _Sizes(
        [
            *downloads,
            *(path for paths in needed.values() for path in paths),
            layout.images,
            *inner,
            *made.values(),
            *sorted(rest),
            *writable.values(),
            *here.values(),
        ]
    )
    return [
        _images(layout, needed, used_images, sizes),
        _containers(layout, here, writable, rest, sizes),
        _volumes(made, used_volumes, sizes),
        Kind(
            "snapshots",
            sizes.of(inner),
            sizes.of(inner),
            "gear snapshot --rm, gear volume snapshot --rm",
            [{"of": of, "label": label, "bytes": sizes.of([path])} for of, label, path in kept],
        ),
        Kind(
            "downloads",
            sizes.of(downloads),
            sizes.of(path for path in downloads if f"{path.parent.name}:{path.name}" not in pinned),
            "gear clean",
            [{"digest": f"{path.parent.name}:{path.name}", "bytes": sizes.of([path])} for path in downloads],
        ),
    ]


def _snapshots(layout: Layout) -> list[tuple[str, str, Path]]:
    """Whose each snapshot is, its label, and where it is."""
    found = [
        (name, label, snapshots.directory(layout, name) / label)
        for name in containers.names(layout)
        for label in snapshots.labels(layout, name)
    ]
    found += [
        (f"volume {name}", label, layout.volumes / name / "snapshots" / label)
        for name in volumestore.names(layout)
        for label in volumestore.snapshots(layout, name)
    ]
    return found


def _images(layout: Layout, needed: dict[str, list[Path]], used: set[str], sizes: _Sizes) -> Kind:
    times = Counter(path for paths in needed.values() for path in set(paths))
    names: dict[str, list[str]] = {}
    for reference, digest in sorted(store.references(layout).items()):
        names.setdefault(digest, []).append(reference)
    items = [
        {
            "digest": digest,
            "references": names.get(digest, []),
            "used": digest in used,
            "bytes": sizes.of(set(paths)),
            "shared": sizes.of({path for path in paths if times[path] > 1}),
            "own": sizes.of({path for path in paths if times[path] == 1}),
        }
        for digest, paths in sorted(needed.items())
    ]
    wanted = {path for digest in used & needed.keys() for path in needed[digest]}
    # The store itself: what is left of it when all that images need has been counted.
    whole = sizes.of([*times, layout.images])
    idle = sizes.of(path for path in times if path not in wanted)
    return Kind("images", whole, idle, "gear image prune --all", items, len(used & needed.keys()))


def _containers(
    layout: Layout, here: dict[str, Path], writable: dict[str, Path], rest: set[Path], sizes: _Sizes
) -> Kind:
    gone = {path for path in rest if layout.containers in path.parents}
    items = [
        {
            "name": name,
            "writable": sizes.of([writable[name]]),
            "bytes": sizes.of([path, writable[name], *(item for item in gone if path in item.parents)]),
        }
        for name, path in here.items()
    ]
    whole = sizes.of([*here.values(), *writable.values(), *gone])
    return Kind("containers", whole, sizes.of(gone), "gear clean", items, len(items))


def _volumes(made: dict[str, Path], used_by: dict[str, list[str]], sizes: _Sizes) -> Kind:
    items = [
        {"name": name, "containers": used_by.get(name, []), "bytes": sizes.of([path])}
        for name, path in made.items()
    ]
    idle = sizes.of(path for name, path in made.items() if name not in used_by)
    active = sum(name in used_by for name in made)
    return Kind("volumes", sizes.of(made.values()), idle, "gear volume prune --all", items, active)
