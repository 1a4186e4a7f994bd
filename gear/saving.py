"""Images as one archive: an OCI layout with Docker's manifest.json beside it, written in one pass.

Not the reading of such archives (gear/sources.py).  Every blob is in it once, byte for byte as it is in the store and
compared with its digest on the way.  Times and owners are zero, so the same images make the same archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gear import files, images, leases, signature_files, store
from gear.document import parse_digest
from gear.errors import IntegrityError, UsageError
from gear.model import Layout
from gear.oci import OCI_INDEX, Descriptor, Image, Manifest, Reference
from gear.records import dataclass

CHUNK = 1 << 20
# What the name of an image is called in an index: for all; for containerd, which takes full names only.
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


@dataclass(frozen=True)
class _Saved:
    """One image of the archive."""

    names: tuple[str, ...]
    manifest: Manifest
    descriptor: Descriptor
    # The artifact with the signatures that are kept, and its blobs.
    signatures: tuple[Descriptor, Mapping[str, bytes]] | None


def save(layout: Layout, texts: Sequence[str], write: Callable[[bytes], object]) -> list[Image]:
    """Write the images *texts* as one archive, a piece at a time; returns them, once for each name.

    A reference is saved under this name, an image given by digest under all that it has.
    """
    store.prepare(layout)
    with leases.pinning(layout):
        images = [image for text in texts for image in _named(layout, text)]
        chosen = [
            _saved(layout, digest, images) for digest in dict.fromkeys(image.digest for image in images)
        ]
        for piece in _archive(layout, chosen):
            write(piece)
    return images


def to_file(layout: Layout, texts: Sequence[str], path: Path) -> list[Image]:
    """The same into the file *path*, which is there as a whole or not at all; readable by its owner only."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        if path.is_dir():
            raise UsageError(f"{path} is a directory.", hint="Give the name of a file.")
        with files.explained(f"write {path}"), open(path, "wb", buffering=0) as pipe:
            return save(layout, texts, lambda data: files.write_all(pipe.fileno(), data))
    partial = files.partial_name(path)
    with files.explained(f"write {path}"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(partial, flags, 0o600)
        try:
            found = save(layout, texts, lambda data: files.write_all(descriptor, data))
            os.fsync(descriptor)
            os.rename(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
        finally:
            os.close(descriptor)
        files.sync_directory(path.parent)
    return found


def _named(layout: Layout, text: str) -> list[Image]:
    image = images.pinned(layout, text)
    if not _is_digest_of(text, image.digest):
        return [image]
    names = [name for name, digest in store.references(layout).items() if digest == image.digest]
    return [Image(name, image.digest, image.config, image.layers, image.size) for name in names] or [image]


def _is_digest_of(text: str, digest: str) -> bool:
    return digest.startswith(text) or digest.partition(":")[2].startswith(text)


def _saved(layout: Layout, digest: str, found: Sequence[Image]) -> _Saved:
    data, node = store.read_document(layout, digest, "the manifest")
    manifest = Manifest.from_node(node)
    for blob in (manifest.config, *manifest.layers):
        leases.pin(layout, blob.digest)
        if not store.is_here(layout, blob):
            raise IntegrityError(f"The image {digest} lacks the blob {blob.digest}.", hint=store.REPAIR)
    names = [image.reference for image in found if image.digest == digest and image.reference != digest]
    descriptor = Descriptor(manifest.media_type, digest, len(data))
    return _Saved(tuple(dict.fromkeys(names)), manifest, descriptor, signature_files.saved(layout, digest))


def _archive(layout: Layout, chosen: Sequence[_Saved]) -> Iterator[bytes]:
    yield from _document("oci-layout", {"imageLayoutVersion": "1.0.0"})
    yield from _document("index.json", _index(chosen))
    yield from _document("manifest.json", [_docker(item) for item in chosen])
    blobs: dict[str, Descriptor] = {}
    for item in chosen:
        for blob in (item.descriptor, item.manifest.config, *item.manifest.layers):
            blobs.setdefault(blob.digest, blob)
    small = {
        digest: data for item in chosen if item.signatures for digest, data in item.signatures[1].items()
    }
    for algorithm in sorted({parse_digest(digest)[0] for digest in (*blobs, *small)}):
        yield _header(f"blobs/{algorithm}", 0, directory=True)
    for blob in blobs.values():
        yield _header(_name(blob), blob.size)
        yield from _content(layout, blob)
        yield bytes(-blob.size % tarfile.BLOCKSIZE)
    for digest in sorted(small.keys() - blobs.keys()):
        yield _header("blobs/{}/{}".format(*parse_digest(digest)), len(small[digest]))
        yield small[digest] + bytes(-len(small[digest]) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _name(blob: Descriptor) -> str:
    return "blobs/{}/{}".format(*parse_digest(blob.digest))


def _content(layout: Layout, blob: Descriptor) -> Iterator[bytes]:
    algorithm, digits = parse_digest(blob.digest)
    hasher, remaining = hashlib.new(algorithm), blob.size
    with open(store.blob_path(layout, blob.digest), "rb", buffering=0) as file:
        while remaining and (data := file.read(min(CHUNK, remaining))):
            hasher.update(data)
            remaining -= len(data)
            yield data
    if remaining or hasher.hexdigest() != digits:
        raise IntegrityError(
            f"The blob {blob.digest} is damaged in the image store, so what was written so far is of no use.",
            hint="gear fsck --repair",
        )


def _index(chosen: Sequence[_Saved]) -> dict[str, Any]:
    """An entry for each name, one for an image without, and one for the signatures of each image that has some."""
    entries = []
    for item in chosen:
        for name in item.names or ("",):
            entry: dict[str, Any] = item.descriptor.document()
            if name:
                entry["annotations"] = {REF_NAME: name}
                if "." in name.partition("/")[0] and "/" in name:
                    entry["annotations"][CONTAINERD_NAME] = name
            entries.append(entry)
        if item.signatures is not None:
            artifact = item.signatures[0]
            entries.append({**artifact.document(), "annotations": dict(artifact.annotations)})
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _docker(item: _Saved) -> dict[str, Any]:
    """What `docker load` reads; it knows no names with digests."""
    names = [name for name in item.names if Reference.parse(name).digest is None]
    return {
        "Config": _name(item.manifest.config),
        "RepoTags": names or None,
        "Layers": [_name(blob) for blob in item.manifest.layers],
    }


def _document(name: str, document: object) -> Iterator[bytes]:
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    yield _header(name, len(data))
    yield data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size: int, *, directory: bool = False) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o755 if directory else 0o644
    member.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    return member.tobuf(tarfile.PAX_FORMAT)
