"""Signatures that travel with images, in files and from one gear to another.

Not whether they are genuine (gear/signatures.py).  In an OCI layout the signatures of sha256:HEX are an artifact beside
the image, whose name has the tag sha256-HEX.sig, as in a registry: `cosign save` and `skopeo copy` keep them so too.
What gear writes has the indexes in it as well that vouch for the image, since a signature may be of one of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from itertools import islice

from gear import cosign, signature_record, sources, store
from gear.claims import Signature
from gear.document import Node, digest_of, parse_document
from gear.model import Layout
from gear.oci import OCI_MANIFEST, Descriptor, media_type

# What is looked at for one image: looking at a signature of gpg takes a process.
ARTIFACTS_LIMIT = 8


def found(source: sources.Files, digests: Set[str]) -> Iterator[Signature]:
    """The signatures of *digests* that *source* has; none in archives of `docker save`."""
    for node, read in _artifacts(source, digests):
        yield from cosign.signatures(node, read)


def vouching(source: sources.Files, digests: Set[str]) -> list[tuple[Descriptor, bytes]]:
    """The indexes that *source* has beside the signatures of *digests*, innermost first."""
    return [index for node, read in _artifacts(source, digests) for index in cosign.indexes(node, read)]


def _artifacts(
    source: sources.Files, digests: Set[str]
) -> Iterator[tuple[Node, Callable[[Descriptor], bytes]]]:
    """The artifacts with signatures of *digests*, and what reads their blobs."""

    def read(blob: Descriptor) -> bytes:
        return sources.verified(source, blob, f"The blob {blob.digest}")

    tags = {cosign.tag(digest) for digest in digests}
    named = (entry for name, entry in sources.entries(source) if name.rpartition(":")[2] in tags)
    for entry in islice(named, ARTIFACTS_LIMIT):
        what = f"The artifact {entry.digest} of {source.what}"
        yield parse_document(sources.verified(source, entry, what), what), read


def saved(layout: Layout, digest: str) -> tuple[Descriptor, dict[str, bytes]] | None:
    """The artifact with the signatures of the image *digest*, and all its blobs by digest, to be put beside the image.

    None for an image that came without.
    """
    record = signature_record.read(layout, digest)
    if not record.signatures:
        return None
    vouching: list[tuple[Descriptor, bytes]] = []
    size = 0
    for index in reversed(record.indexes):  # the newest first
        data, node = store.read_document(layout, index, "the index")
        size += len(data)
        if size > cosign.INDEXES_LIMIT:
            break
        vouching.append((Descriptor(media_type(node, ""), index, len(data)), data))
    manifest, blobs = cosign.artifact(record.signatures, vouching[::-1])
    name = {sources.NAME_ANNOTATIONS[1]: cosign.tag(digest)}
    return Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest), None, name), {
        **blobs,
        digest_of(manifest): manifest,
    }
