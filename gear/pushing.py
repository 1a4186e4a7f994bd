"""Pushing images, and asking a registry: tags, logging in.

Blobs and manifests leave as they are in the store, byte for byte.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

from gear import files, images, indexes, leases, registries, registry_auth, store
from gear.errors import GearError, IntegrityError, RemoteError, UsageError
from gear.fetching import Progress, Silent
from gear.model import Layout
from gear.netfailure import Lost
from gear.oci import Descriptor, Manifest
from gear.records import dataclass
from gear.reference import Remote, meant
from gear.registries import Endpoint, Registries
from gear.registry import Repository
from gear.registry_auth import Credentials
from gear.transport import Transport
from gear.upload import Target, completing

# A blob beyond this is sent in pieces of this size, so that a broken connection costs one piece only.
PIECE = 64 << 20


@dataclass(frozen=True)
class Pushed:
    """Where an image went."""

    reference: str
    digest: str


def push(
    layout: Layout,
    text: str,
    destination: str | None = None,
    *,
    every: bool = False,
    settings: Registries | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Send the image *text* to the registry that *destination*, or its own reference, names.

    With *every* the index goes that the reference was pulled by, and all that is in it.
    """
    settings = settings or registries.load(layout)
    store.prepare(layout)
    with leases.pinning(layout):
        image = images.pinned(layout, text)
        parts = indexes.content(layout, image, every=every)
        leases.pin(layout, *(part.digest for part in (*parts.documents, *parts.blobs)))
        digest = parts.documents[-1].digest
        target = destination or (text if image.reference == image.digest else image.reference)
        remote = meant(target, (), settings.aliases)[0]
        if remote.digest not in (None, digest):
            raise UsageError(f"{text} is {digest}, and can't be pushed as {remote.digest}.")
        settings.endpoints(remote)  # raises when that is blocked
        endpoint = settings.target(remote)
        repository = Target.opened(endpoint, settings, actions="pull,push")
        pushing = _Pushing(layout, repository, _origins(layout, remote), progress or Silent())
        try:
            for blob in {blob.digest: blob for blob in parts.blobs}.values():
                pushing.blob(blob)
            for document in parts.documents[:-1]:
                pushing.document(document, document.digest)
            pushing.document(parts.documents[-1], remote.tag or digest)
        finally:
            repository.transport.close()
    return Pushed(str(remote), digest)


def _origins(layout: Layout, remote: Remote) -> Mapping[str, str]:
    """Blobs that another repository of the same registry is likely to have, and which: they need not be sent."""
    result: dict[str, str] = {}
    for reference, digest in store.references(layout).items():
        try:
            other = Remote.parse(reference)
            if other.registry != remote.registry or other.repository == remote.repository:
                continue
            _, node = store.read_document(layout, digest, "the manifest")
            for blob in Manifest.from_node(node).layers:
                result.setdefault(blob.digest, other.repository)
        except GearError:
            continue  # a damaged image is no reason not to push another
    return result


class _Pushing:
    """The blobs of one image on their way to one repository."""

    def __init__(
        self, layout: Layout, repository: Target, origins: Mapping[str, str], progress: Progress
    ) -> None:
        self._layout, self._repository, self._origins, self._progress = layout, repository, origins, progress

    def blob(self, blob: Descriptor) -> None:
        """See that the registry has *blob*."""
        self._progress.begin(blob.digest, blob.size)
        outcome = "failed"
        try:
            outcome = self._send(blob)
        finally:
            self._progress.end(blob.digest, outcome)

    def document(self, document: Descriptor, name: str) -> None:
        """Store a manifest or index under a tag or digest; all it names is there."""
        data, _ = store.read_document(self._layout, document.digest, "the manifest")
        found = self._repository.put_manifest(name, data, document.media_type)
        if found not in ("", document.digest) and found.startswith(document.digest.partition(":")[0]):
            raise IntegrityError(
                f"{self._repository.what}:{name} arrived as {found} instead of {document.digest}."
            )

    def _send(self, blob: Descriptor) -> str:
        transport = self._repository.transport
        for number in range(transport.retries + 1):
            # Asked each time: the connection may have broken after the last byte.
            if self._repository.has_blob(blob):
                return "already there" if number == 0 else "done"
            origin = self._origins.get(blob.digest, "")
            url = self._repository.begin_upload(blob.digest if origin else "", origin)
            if url is None:
                return "mounted"
            try:
                self._upload(blob, url)
                return "done"
            except Lost as error:
                if number == transport.retries:
                    raise RemoteError(error.message, hint=error.hint) from error
                transport.pause(number, None)
        raise AssertionError("unreachable")

    def _upload(self, blob: Descriptor, url: str) -> None:
        path = store.blob_path(self._layout, blob.digest)
        with files.explained(f"read {path}"), open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != blob.size:
                raise IntegrityError(
                    f"The blob {blob.digest} is damaged in the image store.", hint=store.REPAIR
                )
            offset = 0
            while blob.size - offset > PIECE:
                url, offset = self._piece(file, blob, url, offset)
            body = Piece(file, offset, blob.size, self._progress, blob.digest)
            headers = {"Content-Length": str(blob.size - offset), "Content-Type": "application/octet-stream"}
            if offset:
                headers["Content-Range"] = f"{offset}-{blob.size - 1}"
            self._repository.send("PUT", completing(url, blob.digest), body, headers, accept=(201,))

    def _piece(self, file: IO[bytes], blob: Descriptor, url: str, offset: int) -> tuple[str, int]:
        """Send one piece; after a broken connection go on from where the registry is."""
        end = offset + PIECE
        body = Piece(file, offset, end, self._progress, blob.digest)
        headers = {
            "Content-Length": str(end - offset),
            "Content-Range": f"{offset}-{end - 1}",
            "Content-Type": "application/octet-stream",
        }
        try:
            return self._repository.send("PATCH", url, body, headers, accept=(202,)), end
        except Lost:
            reached = self._repository.upload_offset(url)
            if not offset <= reached <= blob.size:
                raise
            if reached == offset:
                raise
            return url, reached


class Piece:
    """A part of a file as the body of a request."""

    def __init__(self, file: IO[bytes], start: int, end: int, progress: Progress, name: str) -> None:
        self._file, self._start, self._end, self._offset = file, start, end, start
        self._progress, self._name, self._told = progress, name, start

    def read(self, size: int = -1, /) -> bytes:
        size = self._end - self._offset if size < 0 else min(size, self._end - self._offset)
        data = os.pread(self._file.fileno(), size, self._offset)
        self._offset += len(data)
        if self._offset > self._told:
            self._progress.advance(self._name, self._offset - self._told)
            self._told = self._offset
        return data

    def rewind(self) -> None:
        """Begin again."""
        self._offset = self._start


def search_tags(layout: Layout, text: str, limit: int) -> tuple[str, list[str]]:
    """The full name of a repository, and its tags."""
    settings = registries.load(layout)
    remote = meant(text, settings.search, settings.aliases)[0]
    repository = Repository.opened(settings.target(remote), settings)
    try:
        return remote.name, list(repository.tags(limit))
    finally:
        repository.transport.close()


def login(layout: Layout, host: str, credentials: Credentials, environ: Mapping[str, str]) -> str:
    """Try *credentials* at the registry *host* and keep them; returns where."""
    settings = registries.load(layout)
    rule = settings.rule(host)[1]
    transport = Transport(Endpoint(host, "", rule), settings)
    try:
        Repository(transport, lambda: credentials).ping()
    finally:
        transport.close()
    return registry_auth.save(host, credentials, environ)
