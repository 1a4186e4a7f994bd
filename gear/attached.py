"""Signatures of sigstore that a registry has beside an image.

Not whether they are genuine (gear/cosign.py).  By cosign's convention they are an artifact with a tag made of the
digest; registries of OCI distribution 1.1 list such artifacts as referrers as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

from gear import cosign
from gear.claims import Signature
from gear.document import parse_document
from gear.errors import IntegrityError, NotFoundError
from gear.oci import Descriptor
from gear.records import dataclass
from gear.registry import Document, Repository

REFERRERS_LIMIT = 8


@dataclass(frozen=True)
class Kept:
    """What another gear has of an image: signatures, and the indexes that vouch, innermost first."""

    signatures: tuple[Signature, ...]
    indexes: tuple[tuple[Descriptor, bytes], ...]


def signatures(source: Repository, digest: str) -> Iterator[Signature]:
    """The signatures of the manifest or index *digest*, fetched as they are asked for.

    Raises RemoteError when the registry fails, IntegrityError for what is not what it has to be.
    """
    try:
        document = source.manifest(cosign.tag(digest))
    except NotFoundError:
        pass
    else:
        yield from _listed(source, document)
    for entry in _referrers(source, digest):
        yield from _listed(source, source.manifest(entry.digest, entry))


def kept(source: Repository, digest: str) -> Kept | None:
    """What another gear, which is no registry, offers beside the manifest or index *digest*; raises as signatures()."""
    try:
        document = source.manifest(cosign.tag(digest))
    except NotFoundError:
        return None
    node = parse_document(document.data, f"The artifact {document.digest} of {source.what}")
    return Kept(
        tuple(cosign.signatures(node, source.small_blob)), tuple(cosign.indexes(node, source.small_blob))
    )


def _listed(source: Repository, document: Document) -> Iterator[Signature]:
    what = f"The artifact {document.digest} of {source.what}"
    yield from cosign.signatures(parse_document(document.data, what), source.small_blob)


def _referrers(source: Repository, digest: str) -> list[Descriptor]:
    """The artifacts with signatures that the registry lists; none where it knows no referrers."""
    path = f"referrers/{digest}?{urlencode({'artifactType': cosign.ARTIFACT})}"
    with source.get(path, {}) as response:
        if response.status != 200:
            return []
        node = parse_document(response.document(), f"The referrers of {digest} in {source.what}")
    if node.value.get("schemaVersion") != 2:
        raise IntegrityError(f"{node.what} are not an index.")
    # Whoever ignores the filter lists all.
    found = [entry for entry in node.nodes("manifests") if entry.text("artifactType") == cosign.ARTIFACT]
    return [Descriptor.from_node(entry) for entry in found[:REFERRERS_LIMIT]]
