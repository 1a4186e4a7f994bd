"""Images of this store, offered to one other gear on a pair of streams.

The other side asks as it would ask a registry (OCI distribution), and reads only: what was offered, and nothing else
of the store, whatever it asks for.

    GET /offer                       {"version": 1, "images": [{"reference", "digest", "every"}, ...]}
    GET /v2/image/manifests/DIGEST   the manifests and indexes of these images
    GET /v2/image/manifests/TAG      the artifact with the signatures that are kept of one (gear/signature_files.py)
    GET /v2/image/blobs/DIGEST       their blobs, from an offset on if a range is asked for
    PUT /result                      {"images": [{"reference", "digest", "changed"}, ...], "errors": [TEXT, ...]}
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from typing import IO, Any

from gear import cosign, files, images, indexes, leases, signature_files, store
from gear.document import DOCUMENT_LIMIT, parse_document
from gear.errors import GearError, IntegrityError, UsageError
from gear.fetching import Progress
from gear.model import Layout
from gear.oci import OCI_MANIFEST, Descriptor
from gear.patterns import pattern
from gear.records import dataclass, field

VERSION = 1
CHUNK = 1 << 20
_CONTENT = pattern(r"/v2/image/(manifests|blobs)/([a-z0-9]+:[0-9a-f]+|sha[0-9]+-[0-9a-f]+\.sig)", re.ASCII)
_RANGE = pattern(r"bytes=([0-9]{1,19})-", re.ASCII)


@dataclass(frozen=True)
class Item:
    """One image of an offer: what it is called, the digest of its manifest, or with *every* that of its index."""

    reference: str
    digest: str
    every: bool

    def document(self) -> dict[str, Any]:
        return {"reference": self.reference, "digest": self.digest, "every": self.every}


@dataclass(frozen=True)
class Offer:
    """Images, and everything they consist of by digest; their signatures by tag, and the blobs of these by digest."""

    items: tuple[Item, ...]
    documents: dict[str, Descriptor] = field(default_factory=dict)
    blobs: dict[str, Descriptor] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    payloads: dict[str, bytes] = field(default_factory=dict)


def make(layout: Layout, names: Sequence[str], *, every: bool) -> Offer:
    """Offer the images *names*; the caller holds a pinning lease as long as it is open."""
    items: list[Item] = []
    documents: dict[str, Descriptor] = {}
    blobs: dict[str, Descriptor] = {}
    signatures: dict[str, bytes] = {}
    payloads: dict[str, bytes] = {}
    for name in names:
        image = images.pinned(layout, name)
        if image.reference == image.digest:
            raise UsageError(
                f"The image {name} has no name here, so it would have none there.", hint="Give it one first."
            )
        parts = indexes.content(layout, image, every=every)
        leases.pin(layout, *(part.digest for part in (*parts.documents, *parts.blobs)))
        items.append(Item(image.reference, parts.documents[-1].digest, every))
        documents.update((one.digest, one) for one in parts.documents)
        blobs.update((one.digest, one) for one in parts.blobs)
        saved = signature_files.saved(layout, image.digest)
        if saved is not None:
            artifact, found = saved
            # Of an index they are for whichever image of it the other side takes.
            for digest in (image.digest, *(found.keys() & documents.keys())):
                signatures[cosign.tag(digest)] = found[artifact.digest]
            payloads.update(found)
    return Offer(tuple(items), documents, blobs, signatures, payloads)


@dataclass(frozen=True)
class Result:
    """What the other side did."""

    images: tuple[Item, ...] = ()
    changed: tuple[bool, ...] = ()
    errors: tuple[str, ...] = ()


def serve(
    layout: Layout, offer: Offer, source: IO[bytes], sink: IO[bytes], progress: Progress
) -> Result | None:
    """Answer until the other side has told its result or goes away; returns that, None when it told nothing."""
    handler = _Handler(layout, offer, source, sink, progress)
    try:
        while not handler.close_connection:
            handler.handle_one_request()
    except ConnectionError:
        pass  # it is gone; what fails on this side is in handler.failure, or raises
    if handler.failure is not None:
        raise handler.failure
    return handler.result


class _Handler(BaseHTTPRequestHandler):
    """The requests of one connection that is no socket; reading them is the standard library's."""

    protocol_version = "HTTP/1.1"

    def __init__(
        self, layout: Layout, offer: Offer, source: IO[bytes], sink: IO[bytes], progress: Progress
    ) -> None:
        # Not super().__init__(), which wants a socket and answers everything before it returns.
        self._layout, self._offer, self._progress = layout, offer, progress
        self.rfile, self.wfile = source, sink  # type: ignore[assignment]
        self.close_connection = False
        self.result: Result | None = None
        self.failure: GearError | None = None

    def log_message(self, *arguments: object) -> None:
        """Nobody is told of single requests."""

    def do_GET(self) -> None:
        try:
            if self.path == "/offer":
                images = [item.document() for item in self._offer.items]
                self._reply(200, files.dump_json({"version": VERSION, "images": images}))
                return
            match = _CONTENT.fullmatch(self.path)
            if match is not None and self._signatures(match[1], match[2]):
                return
            known = self._offer.documents if match and match[1] == "manifests" else self._offer.blobs
            if match is None or match[2] not in known:
                self._reply(404)
            elif match[1] == "manifests":
                document = known[match[2]]
                data, _ = store.read_document(self._layout, document.digest, "the manifest")
                self._reply(200, data, {"Content-Type": document.media_type})
            else:
                self._blob(known[match[2]])
        except GearError as error:  # the store is damaged
            self.failure = error
            self.close_connection = True

    def _signatures(self, kind: str, name: str) -> bool:
        """Answer what is asked for of signatures; tells whether it was that."""
        data = (self._offer.signatures if kind == "manifests" else self._offer.payloads).get(name)
        if data is None:
            return False
        self._reply(200, data, {"Content-Type": OCI_MANIFEST} if kind == "manifests" else None)
        return True

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length") or ""
        if self.path != "/result" or not length.isdigit() or int(length[:9]) > DOCUMENT_LIMIT:
            self._reply(404)
            self.close_connection = True
            return
        try:
            self.result = _result(self.rfile.read(int(length)))
        except IntegrityError as error:
            self.failure = error
        self._reply(200)
        self.close_connection = True

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _blob(self, blob: Descriptor) -> None:
        path = store.blob_path(self._layout, blob.digest)
        match = _RANGE.fullmatch(self.headers.get("Range") or "")
        start = min(int(match[1]), blob.size) if match else 0
        with files.explained(f"read {path}"):
            file = open(path, "rb", buffering=0)  # noqa: SIM115 (only opening it is explained)
        with file:
            if os.fstat(file.fileno()).st_size != blob.size:
                raise IntegrityError(
                    f"The blob {blob.digest} is damaged in the image store.", hint=store.REPAIR
                )
            self.send_response_only(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{blob.size - 1}/{blob.size}")
            self.send_header("Content-Length", str(blob.size - start))
            self.end_headers()
            self._progress.begin(blob.digest, blob.size)
            outcome = "failed"
            try:
                file.seek(start)
                while data := file.read(CHUNK):
                    self.wfile.write(data)
                    self._progress.advance(blob.digest, len(data))
                self.wfile.flush()
                outcome = "sent"
            finally:
                self._progress.end(blob.digest, outcome)


def _result(data: bytes) -> Result:
    """What the other side says; of a stranger."""
    node = parse_document(data, "What the other side says of its work")
    images = node.nodes("images")
    return Result(
        tuple(Item(one.text("reference"), one.digest("digest"), every=False) for one in images),
        tuple(one.value.get("changed") is True for one in images),
        node.texts("errors") or (),
    )
