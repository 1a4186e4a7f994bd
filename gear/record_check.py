"""Whether what the image store keeps beside images is as it should be: signatures, indexes, subvolumes.

Not images themselves (gear/checking.py), and not what belongs to no image any more, which is left over and no damage
(gear/garbage.py).  Nothing here can't be had again: signatures and indexes by pulling, subvolumes of what is here.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gear import changed, files, indexes, leases, removal, signature_record, store
from gear.checking import digest_of_file
from gear.document import DIGEST
from gear.errors import GearError
from gear.findings import Finding
from gear.merged import Root
from gear.model import Layout
from gear.oci import Descriptor

# How an image comes here again, by the digest of its manifest.
Again = Callable[[str], str]


def check(layout: Layout, again: Again, *, quick: bool = False) -> Iterator[Finding]:
    """The faults of all of them; *quick* compares names, sizes and documents only."""
    with leases.pinning(layout):
        for kind, one in (("signatures", _signatures), ("indexes", _index), ("subvolumes", _subvolume)):
            for algorithm in ("sha256", "sha512"):
                for path in _entries(layout.images / kind / algorithm):
                    digest = f"{algorithm}:{path.name}"
                    if not DIGEST.fullmatch(digest):
                        yield Finding(path, "is not named by a digest", mend=partial(_remove, layout, path))
                        continue
                    leases.pin(layout, digest)
                    yield from one(layout, path, digest, again, quick)


def _entries(directory: Path) -> list[Path]:
    with files.explained(f"read {directory}"):
        try:
            return sorted(path for path in directory.iterdir() if not path.name.startswith(files.PARTIAL))
        except FileNotFoundError:
            return []


def _signatures(layout: Layout, path: Path, digest: str, again: Again, quick: bool) -> Iterator[Finding]:
    if not store.place(layout, "manifests", digest).exists():
        return  # left over, or of an image that is about to come
    try:
        record = signature_record.read(layout, digest)
    except GearError:
        hint = again(digest)
        yield Finding(path, "is damaged", mend=partial(_remove, layout, path), hint=hint, lost=True)
        return
    lost = []
    for index in record.indexes:
        leases.pin(layout, index)
        try:
            store.read_document(layout, index, "the index")
        except GearError:
            lost.append(index)
    if lost:
        what = f"speaks of the index {lost[0]}, which is missing or damaged"
        mend = partial(signature_record.forget, layout, digest, lost)
        yield Finding(path, what, mend=mend, hint=again(digest), lost=True)


def _index(layout: Layout, path: Path, digest: str, again: Again, quick: bool) -> Iterator[Finding]:
    """An index with all its platforms.  What else of it is damaged is garbage when the record is gone."""
    names = [name for name in store.references(layout) if indexes.of_reference(layout, name) == digest]
    if not names:
        return  # left over, or about to be named; nobody keeps what it lists from being removed
    try:
        stated = indexes.record(layout, digest)
    except GearError:
        stated = Descriptor("", digest, -1)
    if stated is None:
        return  # removed before it was pinned
    why, found = "", stated
    try:
        parts = indexes.parts(layout, digest)
        leases.pin(layout, *(part.digest for part in (*parts.documents, *parts.blobs)))
        found = parts.documents[-1]
        why = next((why for blob in parts.blobs if (why := _blob(layout, blob, quick))), "")
    except GearError as error:
        why = error.message
    if why:
        hint = f"gear image pull --all-platforms {names[0]}"
        what = f"is of an index that is not here as a whole: {why}"
        yield Finding(path, what, mend=partial(_remove, layout, path), hint=hint, lost=True)
    elif (stated.media_type, stated.size) != (found.media_type, found.size):
        yield Finding(path, "is damaged", mend=partial(indexes.publish, layout, found))


def _blob(layout: Layout, blob: Descriptor, quick: bool) -> str:
    """What is wrong with a blob, as a sentence without its end; "" when nothing is."""
    if not store.is_here(layout, blob):
        return f"the blob {blob.digest} is missing, or has not the {blob.size} bytes it should have"
    if not quick and digest_of_file(store.blob_path(layout, blob.digest), blob.digest) != blob.digest:
        return f"the blob {blob.digest} is damaged"
    return ""


def _subvolume(layout: Layout, path: Path, digest: str, again: Again, quick: bool) -> Iterator[Finding]:
    """All layers of an image merged, of which containers get snapshots."""
    try:
        roots = [
            Root(store.layer_root(layout, diff_id)) for diff_id in store.image(layout, digest, digest).layers
        ]
    except GearError:
        return  # the image is damaged, which is told, or is none any more
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            what = "is no directory"
        elif not quick and changed.is_changed(roots, [Root(path)], str(path), frozenset()):
            what = "is not what the layers of its image come to"
        else:
            return
    except FileNotFoundError:
        return  # removed meanwhile
    yield Finding(path, f"{what}; the next container makes it again", mend=partial(_remove, layout, path))


def _remove(layout: Layout, path: Path) -> None:
    """Take a record or a tree out of the way while nobody needs the store as it is; raises GearError."""
    with leases.alone(layout, wait=leases.PATIENCE_S) as alone:
        if not alone:
            raise GearError(f"{path} stays: {leases.who_works(layout)}.")
        leases.require_unneeded(layout, f"{path.parent.name}:{path.name}", path)
        if not path.is_dir() or path.is_symlink():
            files.remove_file(path)
            files.sync_directory(path.parent)
            return
        doomed = files.partial_name(path)
        path.rename(doomed)
    removal.remove_tree(doomed)
