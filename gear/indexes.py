"""Indexes in the image store: images for several platforms under one digest.

Not the choice of a platform (gear/oci.py), nor how an index comes here (gear/fetching.py).  A reference remembers
the index it was resolved by.  With all of its images here as blobs an index has a record of its own; only the image
that the reference stands for is unpacked, and the others when somebody asks for their platform.
"""

from __future__ import annotations

from collections.abc import Container

from gear import files, store
from gear.document import DOCUMENT_LIMIT, parse_document
from gear.errors import IntegrityError, NotFoundError
from gear.model import Layout
from gear.oci import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    Image,
    Manifest,
    Reference,
    index_entries,
    opaque_blobs,
)
from gear.records import dataclass

NESTING_LIMIT = 3
# Of manifests and indexes in an index and those in it.
ENTRY_LIMIT = 500


@dataclass(frozen=True)
class Parts:
    """What an image or index consists of: its documents, the one that is meant last; and the blobs they name."""

    documents: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


def check_entry(entry: Descriptor, what: str) -> None:
    """Raise IntegrityError for an entry of an index that no registry could give out as a manifest."""
    if entry.media_type not in (*MANIFESTS, *INDEXES):
        raise IntegrityError(
            f"{what} holds {entry.digest} of the type {entry.media_type[:80]!r}, "
            "which is neither an image, nor an artifact, nor an index."
        )
    if entry.size > DOCUMENT_LIMIT:
        raise IntegrityError(
            f"{what} holds {entry.digest} of {entry.size} bytes, more than the {DOCUMENT_LIMIT} of a manifest."
        )


def parts(layout: Layout, digest: str, media_type: str = "") -> Parts:
    """Everything that the index *digest* of the store needs; raises IntegrityError when a document of it is missing."""
    documents: dict[str, Descriptor] = {}
    blobs: dict[str, Descriptor] = {}

    def walk(digest: str, media_type: str, depth: int) -> None:
        data, node = store.read_document(
            layout, digest, "the index" if media_type in ("", *INDEXES) else "the manifest"
        )
        if media_type in MANIFESTS:
            blobs.update((blob.digest, blob) for blob in opaque_blobs(node, media_type))
        else:
            if depth == NESTING_LIMIT:
                raise IntegrityError(f"{node.what} is nested more than {NESTING_LIMIT} deep.")
            for entry in index_entries(node, media_type):
                check_entry(entry, node.what)
                if entry.digest not in documents:
                    walk(entry.digest, entry.media_type, depth + 1)
        if len(documents) > ENTRY_LIMIT:
            raise IntegrityError(f"{node.what} has more than {ENTRY_LIMIT} images.")
        documents[digest] = Descriptor(media_type or node.text("mediaType"), digest, len(data))

    walk(digest, media_type, 0)
    return Parts(tuple(documents.values()), tuple(blobs.values()))


def publish(layout: Layout, index: Descriptor) -> None:
    """Make an index visible whose parts are all here; the caller holds the lease."""
    for blob in parts(layout, index.digest, index.media_type).blobs:
        if not store.is_here(layout, blob):
            raise IntegrityError(f"The index {index.digest} lacks the blob {blob.digest}.")
    record = files.dump_json({"mediaType": index.media_type, "size": index.size})
    path = store.place(layout, "indexes", index.digest)
    if files.read_bytes(path) != record:
        files.write_atomic(path, record, 0o600)


def of_reference(layout: Layout, reference: str) -> str:
    """The digest of the index that *reference* was resolved by; "" when it was none, or nothing goes by that name."""
    if reference != str(Reference.parse(reference)):
        return ""
    data = files.read_bytes(store.reference_path(layout, reference))
    node = parse_document(data or b"{}", f"the reference {reference}")
    return node.digest("index") if node.value.get("index") is not None else ""


def record(layout: Layout, digest: str) -> Descriptor | None:
    """The index *digest*, if all of it is here."""
    data = files.read_bytes(store.place(layout, "indexes", digest))
    if data is None:
        return None
    node = parse_document(data, f"the record of the index {digest}")
    return Descriptor(node.text("mediaType"), digest, node.size("size"))


def whole(layout: Layout, reference: str) -> Descriptor:
    """The index behind *reference*, with all its images; raises NotFoundError when it is not here like that."""
    digest = of_reference(layout, reference)
    found = record(layout, digest) if digest else None
    if found is None:
        raise NotFoundError(
            f"{reference} is here for one platform only.",
            hint=f"gear image pull --all-platforms {reference}",
        )
    return found


def content(layout: Layout, image: Image, *, every: bool) -> Parts:
    """What goes where *image* goes; with *every* all of the index that its reference stands for."""
    if every:
        index = whole(layout, image.reference)
        return parts(layout, index.digest, index.media_type)
    data, node = store.read_document(layout, image.digest, "the manifest")
    manifest = Manifest.from_node(node)
    document = Descriptor(manifest.media_type, image.digest, len(data))
    return Parts((document,), (*manifest.layers, manifest.config))


def wanted(layout: Layout, images: Container[str]) -> list[str]:
    """The digests of the indexes that are here as a whole and that a reference to one of *images* stands for."""
    known = store.references(layout).items()
    named = {of_reference(layout, reference) for reference, digest in known if digest in images} - {""}
    return sorted(digest for digest in named if record(layout, digest) is not None)


def platforms(layout: Layout, digest: str) -> list[str]:
    """What the images of an index that is here as a whole are for; nothing for any other."""
    found = record(layout, digest)
    if found is None:
        return []
    _, node = store.read_document(layout, digest, "the index")
    stated = {str(entry.platform) for entry in index_entries(node, found.media_type) if entry.platform}
    return sorted(stated - {"unknown/unknown"})  # what attestations by BuildKit say
