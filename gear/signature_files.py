"""Signatures that travel with images in files.

Not whether they are genuine (gear/signatures.py).  In an OCI layout the signatures of sha256:HEX are an artifact beside
the image, whose name has the tag sha256-HEX.sig, as in a registry: `cosign save` and `skopeo copy` keep them so too.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from gear import cosign, signature_record, sources
from gear.claims import Signature
from gear.document import digest_of, parse_document
from gear.model import Layout
from gear.oci import OCI_MANIFEST, Descriptor


def found(source: sources.Files, digests: Set[str]) -> Iterator[Signature]:
    """The signatures of *digests* that *source* has; none in archives of `docker save`."""
    tags = {cosign.tag(digest) for digest in digests}
    for name, entry in sources.entries(source):
        if name.rpartition(":")[2] in tags:
            what = f"The artifact {entry.digest} of {source.what}"
            node = parse_document(sources.verified(source, entry, what), what)
            yield from cosign.signatures(
                node, lambda blob: sources.verified(source, blob, f"The blob {blob.digest}")
            )


def saved(layout: Layout, digest: str) -> tuple[Descriptor, dict[str, bytes]] | None:
    """The artifact with the signatures of the image *digest*, and all its blobs by digest, to be put beside the image.

    None for an image that came without.  Signatures of an index are of use only where that is put beside it as well.
    """
    record = signature_record.read(layout, digest)
    if not record.signatures:
        return None
    manifest, blobs = cosign.artifact(record.signatures)
    name = {sources.NAME_ANNOTATIONS[1]: cosign.tag(digest)}
    return Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest), None, name), {
        **blobs,
        digest_of(manifest): manifest,
    }
