"""What nothing in the image store refers to: finding it, and removing it.

Not the decision what to keep: the caller names the digests that containers use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gear import files, indexes, leases, removal, signature_record, store
from gear.document import parse_document
from gear.errors import GearError
from gear.model import Layout
from gear.oci import ImageConfig, Manifest


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _everything(layout: Layout) -> list[Path]:
    """What can become garbage, in the order in which it has to go: users before what they use."""
    return [
        path
        for kind in ("indexes", "manifests", "signatures", "subvolumes", "layers", "blobs", "downloads")
        for algorithm in ("sha256", "sha512")
        for path in _entries(layout.images / kind / algorithm)
    ] + [*_entries(layout.images / "references"), *_entries(layout.images / "leases")]


def interrupted(layout: Layout) -> list[Path]:
    """What interrupted commands left behind, and what commands that are at work still write."""
    return [path for path in _everything(layout) if path.name.startswith(files.PARTIAL)]


def sweep(layout: Layout, *, wait: float = 0.0) -> list[Path] | None:
    """Remove what interrupted commands left behind; returns it.

    None, and nothing is removed, when somebody is at work in the store, also after *wait* seconds.
    """
    with leases.alone(layout, wait=wait) as alone:
        if not alone or leases.pinners(layout):
            return None
        leases.forget(layout)
        found = interrupted(layout)
        doomed = [_take_away(path) for path in found]
    _empty(doomed)
    return found


def garbage(layout: Layout, keep_digests: Iterable[str]) -> list[tuple[Path, int]]:
    """What no reference and none of *keep_digests* (of manifests) needs, with its size in bytes.

    Raises IntegrityError when an image that is to be kept can't be read: then nobody knows what it needs.
    """
    return unneeded(layout, set(keep_digests) | set(store.references(layout).values()))


def unneeded(layout: Layout, wanted: Iterable[str]) -> list[tuple[Path, int]]:
    """What none of the images *wanted* needs, whatever references there are, with its size in bytes."""
    keep: set[Path] = set()
    wanted = set(wanted)
    for digest in wanted & set(store.held(layout)):
        keep |= set(needs(layout, digest))
    for digest in indexes.wanted(layout, wanted):
        parts = indexes.parts(layout, digest)
        keep.add(store.place(layout, "indexes", digest))
        keep.update(store.blob_path(layout, blob.digest) for blob in (*parts.documents, *parts.blobs))
    return [
        (path, _size(path))
        for path in _everything(layout)
        if path not in keep
        and path.parent.name not in ("references", "leases")
        and not path.name.startswith(files.PARTIAL)
    ]


def needs(layout: Layout, digest: str) -> list[Path]:
    """The files and directories of the store that the image *digest* consists of; of a subvolume it may have none."""
    _, node = store.read_document(layout, digest, "the manifest")
    manifest = Manifest.from_node(node)
    _, node = store.read_document(layout, manifest.config.digest, "the image config")
    config = ImageConfig.from_mapping(node.value, node.what)
    return [
        store.place(layout, "manifests", digest),
        store.place(layout, "signatures", digest),
        *(store.blob_path(layout, index) for index in signature_record.read(layout, digest).indexes),
        store.place(layout, "subvolumes", digest),
        *(
            store.blob_path(layout, blob)
            for blob in (digest, manifest.config.digest, *(blob.digest for blob in manifest.layers))
        ),
        *(store.place(layout, "layers", diff_id) for diff_id in config.diff_ids),
    ]


def collect(
    layout: Layout, keep_digests: Iterable[str], *, drop: str | None = None, wait: float = 0.0
) -> list[tuple[Path, int]] | None:
    """Remove the garbage and what interrupted commands left; returns what was removed.

    None, and nothing is removed, when somebody needs the store as it is, also after *wait* seconds; what others have
    pinned stays.  The image *drop* goes first, so that two damaged images don't keep each other here.
    """
    store.prepare(layout)
    with leases.alone(layout, wait=wait) as alone:
        if not alone:
            return None
        # In this order on the disk as well: after a power cut nothing is left that lacks what it needs.
        files.sync_directory(layout.images / "references")
        leases.forget(layout)
        pinned = leases.pinned(layout)
        found = [] if leases.pinners(layout) else [_take_away(path) for path in interrupted(layout)]
        if drop is not None and drop not in pinned:
            files.remove_file(store.place(layout, "manifests", drop))
        doomed = [
            (path, size)
            for path, size in garbage(layout, {*keep_digests, *pinned})
            if f"{path.parent.name}:{path.name}" not in pinned
        ]
        records = [path for path, _ in doomed if path.parent.parent.name == "manifests"]
        for path in records:
            files.remove_file(path)
        for algorithm in ("sha256", "sha512"):
            files.sync_directory(layout.images / "manifests" / algorithm)
        found += [_take_away(path) for path, _ in doomed if path not in records]
    _empty(found)
    return doomed


def _take_away(path: Path) -> Path:
    """Unlink a file, and rename a layer: it is out of sight at once, and half of it is never taken for whole."""
    with files.explained(f"remove {path}"):
        if not path.is_dir() or path.is_symlink():
            files.remove_file(path)
            return path
        if path.name.startswith(files.PARTIAL):
            return path
        doomed = files.partial_name(path)
        os.rename(path, doomed)
        return doomed


def _empty(doomed: Iterable[Path]) -> None:
    """Remove the trees among *doomed*.  Nobody looks for them any more, but another removal may be at the same."""
    for path in doomed:
        while path.is_dir() and not path.is_symlink():
            try:
                removal.remove_tree(path)
            except GearError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise


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
