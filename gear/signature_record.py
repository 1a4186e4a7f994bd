"""The signatures that are kept beside an image in the store, so that it can be verified again without a network.

Not whether they are genuine: whoever reads them checks (gear/signatures.py).  Of an image with the manifest HEX

    signatures/ALGORITHM/HEX    {"signatures": [{"kind": "gpg" or "sigstore", "signature": base64,
                                "payload": base64, "" for gpg, whose signatures hold it}],
                                "indexes": [digests, innermost first]}

The indexes, through which the image was found, are blobs: a signature of an index speaks for what the index lists.  The
record is written before the reference, and goes with the image.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from contextlib import suppress

from gear import files, leases, store
from gear.claims import PAYLOAD_LIMIT, TYPES, Signature
from gear.document import Node, digest_of, parse_document
from gear.errors import IntegrityError
from gear.model import Layout
from gear.oci import index_entries
from gear.records import dataclass

# What is kept of one image.
COUNT_LIMIT = 32
SIZE_LIMIT = 4 << 20


@dataclass(frozen=True)
class Record:
    """What is kept for one image."""

    signatures: tuple[Signature, ...] = ()
    indexes: tuple[str, ...] = ()


def read(layout: Layout, digest: str) -> Record:
    """What is kept for the manifest *digest*; raises IntegrityError when that is damaged."""
    data = files.read_bytes(store.place(layout, "signatures", digest), SIZE_LIMIT)
    if data is None:
        return Record()
    try:
        node = parse_document(data, f"the record of the signatures of {digest}")
        indexes = tuple(node.texts("indexes") or ())
        for index in indexes:
            store.blob_path(layout, index)  # raises for what is no digest
        return Record(tuple(_signature(item) for item in node.nodes("signatures")), indexes)
    except IntegrityError as error:
        raise IntegrityError(error.message, hint=store.REPAIR) from error


def _signature(node: Node) -> Signature:
    kind = node.text("kind")
    if kind not in TYPES:
        node.fail("kind", "is no kind of signature")
    return Signature(kind, _bytes(node, "signature"), _bytes(node, "payload"))


def _bytes(node: Node, name: str) -> bytes:
    try:
        return base64.b64decode(node.text(name), validate=True)
    except (binascii.Error, ValueError):
        node.fail(name, "is not base64")


def write(
    layout: Layout,
    digest: str,
    good: Sequence[Signature],
    others: Sequence[Signature],
    indexes: Sequence[str],
) -> None:
    """Keep *good*, what was kept before, and of *others* what there is room for; the caller holds the lease."""
    leases.pin(layout, digest)
    before = Record()
    with suppress(IntegrityError):  # a damaged record is mended so
        before = read(layout, digest)
    kept: list[Signature] = []
    size = 0
    for signature in dict.fromkeys((*good, *before.signatures, *others)):
        if max(len(signature.signature), len(signature.payload)) > PAYLOAD_LIMIT:
            continue
        size += 2 * (len(signature.signature) + len(signature.payload))
        if len(kept) == COUNT_LIMIT or size > SIZE_LIMIT // 2:
            break
        kept.append(signature)
    listed = list(dict.fromkeys((*before.indexes, *indexes)))[-COUNT_LIMIT:]
    path, data = store.place(layout, "signatures", digest), _document(kept, listed)
    if files.read_bytes(path) != data:
        files.write_atomic(path, data, 0o600)


def forget(layout: Layout, digest: str, indexes: Sequence[str]) -> None:
    """Let the signatures of *digest* speak of *indexes* no more; raises IntegrityError."""
    record = read(layout, digest)
    left = [index for index in record.indexes if index not in indexes]
    files.write_atomic(store.place(layout, "signatures", digest), _document(record.signatures, left), 0o600)


def _document(signatures: Sequence[Signature], indexes: Sequence[str]) -> bytes:
    listed = [
        {
            "kind": signature.kind,
            "signature": base64.b64encode(signature.signature).decode(),
            "payload": base64.b64encode(signature.payload).decode(),
        }
        for signature in signatures
    ]
    return files.dump_json({"signatures": listed, "indexes": list(indexes)})


def vouching(layout: Layout, record: Record, digest: str) -> set[str]:
    """The digests that signatures may be of: the manifest's, and those of the indexes that list it."""
    data, _ = store.read_document(layout, digest, "the manifest")
    result = {digest, digest_of(data)}
    for index in record.indexes:
        data, node = store.read_document(layout, index, "the index")
        if result & {entry.digest for entry in index_entries(node)}:
            result |= {index, digest_of(data)}
    return result
