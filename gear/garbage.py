"""What nothing in the image store refers to: finding it, and removing it.

Not the decision what to keep: the caller names the digests that containers use.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gear import files, removal, store
from gear.document import parse_document
from gear.errors import GearError
from gear.model import Layout
from gear.oci import ImageConfig, Manifest


@contextmanager
def _alone(layout: Layout, *, wait: bool) -> Iterator[bool]:
    """Hold the store's lock without anyone else; without *wait* the value tells whether that succeeded."""
    store.prepare(layout)
    path = layout.images / "lock"
    if wait:
        with files.locked(path):
            yield True
        return
    with files.explained(f"lock {path}"):
        # Nobody ever removes this lock file, so there is no name to compare as in files.locked().
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _everything(layout: Layout) -> list[Path]:
    """What can become garbage, in the order in which it has to go: users before what they use."""
    return [
        path
        for kind in ("manifests", "subvolumes", "layers", "blobs", "downloads")
        for algorithm in ("sha256", "sha512")
        for path in _entries(layout.images / kind / algorithm)
    ] + _entries(layout.images / "references")


def sweep(layout: Layout, *, wait: bool = False) -> list[Path] | None:
    """Remove what interrupted commands left behind; returns it.

    None, and nothing is removed, when somebody holds a lease and *wait* is not set.
    """
    with _alone(layout, wait=wait) as alone:
        if not alone:
            return None
        partials = _partials(layout)
        for path in partials:
            _remove(path)
        return partials


def interrupted(layout: Layout) -> list[Path]:
    """What sweep() would remove; nothing when somebody holds a lease, since it may be theirs."""
    with _alone(layout, wait=False) as alone:
        return _partials(layout) if alone else []


def _partials(layout: Layout) -> list[Path]:
    return [path for path in _everything(layout) if path.name.startswith(files.PARTIAL)]


def garbage(layout: Layout, keep_digests: Iterable[str]) -> list[tuple[Path, int]]:
    """What no reference and none of *keep_digests* (of manifests) needs, with its size in bytes.

    Raises IntegrityError when an image that is to be kept can't be read: then nobody knows what it needs.
    """
    keep: set[Path] = set()
    wanted = set(keep_digests) | set(store.references(layout).values())
    for digest in wanted & set(store.held(layout)):
        keep |= set(needs(layout, digest))
    return [
        (path, _size(path))
        for path in _everything(layout)
        if path not in keep and path.parent.name != "references" and not path.name.startswith(files.PARTIAL)
    ]


def needs(layout: Layout, digest: str) -> list[Path]:
    """The files and directories of the store that the image *digest* consists of; of a subvolume it may have none."""
    _, node = store.read_document(layout, digest, "the manifest")
    manifest = Manifest.from_node(node)
    _, node = store.read_document(layout, manifest.config.digest, "the image config")
    config = ImageConfig.from_mapping(node.value, node.what)
    return [
        store.place(layout, "manifests", digest),
        store.place(layout, "subvolumes", digest),
        *(
            store.blob_path(layout, blob)
            for blob in (digest, manifest.config.digest, *(blob.digest for blob in manifest.layers))
        ),
        *(store.place(layout, "layers", diff_id) for diff_id in config.diff_ids),
    ]


def collect(
    layout: Layout, keep_digests: Iterable[str], *, drop: str | None = None, wait: bool = False
) -> list[tuple[Path, int]] | None:
    """Remove the garbage and what interrupted commands left; returns what was removed.

    None, and nothing is removed, when somebody holds a lease and *wait* is not set.  The image *drop* goes
    first, so that two damaged images don't keep each other here.
    """
    with _alone(layout, wait=wait) as alone:
        if not alone:
            return None
        for path in _partials(layout):
            _remove(path)
        if drop is not None:
            files.remove_file(store.place(layout, "manifests", drop))
        doomed = garbage(layout, keep_digests)
        for path, _ in doomed:
            _remove(path)
        return doomed


def _remove(path: Path) -> None:
    """A file is unlinked; a layer is renamed first, so that half of it is never taken for a whole one."""
    if path.is_dir() and not path.is_symlink():
        removal.remove_tree(path)
    else:
        files.remove_file(path)


def _size(path: Path) -> int:
    """Bytes of a blob or record, or of the files of a layer as its metadata says; a subvolume shares its files with
    the layers."""
    if path.parent.parent.name == "subvolumes":
        return 0
    with suppress(FileNotFoundError):
        if not path.is_dir():
            return path.stat().st_size
        with suppress(GearError):
            return parse_document(files.read_bytes(path / "layer.json") or b"", "layer.json").size("size")
    return 0
