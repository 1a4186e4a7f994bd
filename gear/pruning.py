"""Making room: which images nobody needs any more, what they take, and their removal.

Not what a single image needs (gear/garbage.py).  Everything is worked out before anything goes, so that it can be
shown or asked about.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gear import durations, garbage, images, leases, store
from gear.errors import UsageError
from gear.model import Layout
from gear.oci import Image
from gear.records import dataclass


@dataclass(frozen=True)
class Filter:
    """Which of the images that nobody needs are meant: created before *until*, with all of *labels* (value None: any).

    An image that does not say when it was created is older than everything.
    """

    until: datetime.datetime | None = None
    labels: Sequence[tuple[str, str | None]] = ()

    def takes(self, image: Image) -> bool:
        if self.until is not None and _moment(image.config.created) >= self.until:
            return False
        have = image.config.labels
        return all(name in have and value in (None, have[name]) for name, value in self.labels)


def _moment(text: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def parse_until(text: str, now: datetime.datetime) -> datetime.datetime:
    """A time in the form of RFC 3339, or a span before *now* such as 24h; raises UsageError."""
    try:
        if not text.isdigit():  # which may be a date
            return now - datetime.timedelta(seconds=durations.parse(text))
    except (OverflowError, UsageError):
        pass
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text[:80]!r} is no time.", hint="Write 24h, 30d, or a time such as 2026-11-01T12:00:00Z."
        ) from None
    return moment if moment.tzinfo else moment.astimezone()


@dataclass(frozen=True)
class Doomed:
    """An image that goes, and all its references."""

    digest: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What goes, and the files and directories of the store with their bytes that this frees."""

    images: tuple[Doomed, ...]
    files: tuple[tuple[Path, int], ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)


def plan(layout: Layout, *, unused: bool = False, wanted: Filter = Filter()) -> Plan:  # noqa: B008 (frozen)
    """What prune() would remove: images without a reference that nobody uses, with *unused* those with one as well,
    and what no image needs.

    Raises IntegrityError when it can't be told what an image or a container needs.
    """
    known = store.references(layout)
    used = images.in_use(layout)
    doomed = []
    for digest in store.held(layout):
        names = tuple(name for name, target in known.items() if target == digest)
        if digest in used or (names and not unused):
            continue
        if wanted != Filter() and not wanted.takes(store.image(layout, digest, digest)):
            continue
        doomed.append(Doomed(digest, names))
    keep = set(store.held(layout)) - {item.digest for item in doomed}
    return Plan(tuple(doomed), tuple(garbage.unneeded(layout, keep)))


@dataclass(frozen=True)
class Pruned:
    """What went, how many bytes that freed, and what stayed: sentences that say why."""

    images: tuple[Doomed, ...]
    size: int
    stayed: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        return {
            "images": [{"digest": item.digest, "references": list(item.references)} for item in self.images],
            "bytes": self.size,
            "stayed": list(self.stayed),
        }


def prune(layout: Layout, what: Plan, *, patience: float = leases.PATIENCE_S) -> Pruned:
    """Remove what *what* says.  The caller holds the lock, so that nobody starts to use an image meanwhile.

    What another command needs stays, and so does everything while one needs the store as it is.
    """
    used = images.in_use(layout)
    going = {item.digest for item in what.images} - set(used)
    # A reference may have moved since.
    for name, digest in store.references(layout).items():
        if digest in going and any(name in item.references for item in what.images if item.digest == digest):
            store.remove_reference(layout, name)
    keep = (set(store.held(layout)) | set(used)) - going
    removed = garbage.collect(layout, keep, wait=patience)
    if removed is None:
        return Pruned((), 0, (f"nothing is freed: {leases.who_works(layout)}",))
    left = set(store.held(layout))
    gone = tuple(item for item in what.images if item.digest not in left)
    stayed = [
        f"the image {item.digest} stays: {leases.who_works(layout)}"
        for item in what.images
        if item not in gone
    ]
    rest = {path for path, _ in what.files} - {path for path, _ in removed}
    size = sum(size for path, size in what.files if path in rest and path.exists())
    if size and not stayed:
        stayed.append(f"{size} bytes stay: {leases.who_works(layout)}")
    if work := garbage.interrupted(layout):
        stayed.append(f"{len(work)} files of work in progress stay: {leases.who_works(layout)}")
    return Pruned(gone, sum(size for _, size in removed), tuple(stayed))
