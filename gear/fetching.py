"""An image from repositories into the store, for one platform or for all of them.

Not the registry's protocol (gear/registry.py), nor how one layer comes (gear/incoming.py), nor when an image is to be
had (gear/pulling.py).  Nothing is visible before all of it is here; what a network failure leaves is taken up by the
next attempt.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol

from gear import files, garbage, images, indexes, leases, store
from gear.document import parse_document
from gear.errors import GearError, IntegrityError
from gear.incoming import Layer, Syncer
from gear.indexes import ENTRY_LIMIT, NESTING_LIMIT
from gear.model import Layout
from gear.netfailure import Cancelled
from gear.oci import (
    INDEXES,
    OCI_CONFIG,
    Descriptor,
    Image,
    ImageConfig,
    Manifest,
    Platform,
    choose,
    index_entries,
    opaque_blobs,
)
from gear.records import dataclass
from gear.registries import Registries
from gear.registry import Document, Repository
from gear.signatures import Gate


class Progress(Protocol):
    """Who is told how far a transfer is; called by several threads."""

    def begin(self, name: str, size: int) -> None: ...

    def advance(self, name: str, count: int) -> None: ...

    def end(self, name: str, outcome: str) -> None: ...


class Silent:
    """Nobody is told."""

    def begin(self, name: str, size: int) -> None:
        """A blob begins."""

    def advance(self, name: str, count: int) -> None:
        """Some bytes of it."""

    def end(self, name: str, outcome: str) -> None:
        """It is done."""


@dataclass(frozen=True)
class Pulled:
    """What a pull came to: the full reference, the image, and whether it is another one than before."""

    reference: str
    image: Image
    changed: bool


@dataclass(frozen=True)
class Wanted:
    """What of a repository: a tag or digest, for which platform, and whether the others are to be kept as well."""

    name: str
    what: str  # in messages
    platform: Platform
    every: bool = False


@dataclass(frozen=True)
class _Resolved:
    """The manifest for the platform that is wanted, behind the indexes that led to it, and all else of the first of
    those if it is wanted."""

    chain: tuple[Document, ...]
    others: tuple[Document, ...] = ()

    @property
    def manifest(self) -> Document:
        return self.chain[-1]

    @property
    def index(self) -> Document | None:
        return self.chain[0] if len(self.chain) > 1 else None


def fetch(
    layout: Layout,
    sources: list[Repository],
    reference: str,
    wanted: Wanted,
    progress: Progress,
    gate: Gate,
    settings: Registries,
) -> Pulled:
    """Have the image *wanted* of the first of *sources* that has it in the store, called *reference*, if *gate* lets it
    have that name."""
    store.prepare(layout)
    garbage.sweep(layout)
    try:
        with leases.pinning(layout):
            place, found = _resolve(sources, wanted)
            ordered = sources[place:] + sources[:place]
            # Before anything that is in them is looked at, or kept.
            gate.pass_pulled(found.chain, ordered, settings)
            before = store.references(layout).get(reference)
            opaque = [blob for document in found.others for blob in _blobs(document)]
            _fetch(layout, ordered, _manifest(found.manifest, wanted), opaque, progress, settings.parallel)
            for document in found.others:
                store.add_blob(layout, io.BytesIO(document.data), expected=document.descriptor())
            blob = _keep(layout, found.manifest)
            index = ""
            if found.index is not None:
                index = found.index.digest
                if wanted.every:
                    indexes.publish(layout, _keep(layout, found.index))
            gate.keep(found.manifest.digest, [(each.descriptor(), each.data) for each in found.chain[-2::-1]])
            image = store.publish(layout, blob, reference, index)
    except IntegrityError:
        # What a registry that lies has sent is of no use to the next pull.
        with suppress(GearError):
            garbage.collect(layout, {*images.users(layout), *store.held(layout)})
        raise
    return Pulled(reference, image, before != image.digest)


def _keep(layout: Layout, document: Document) -> Descriptor:
    return store.add_blob(layout, io.BytesIO(document.data), expected=document.descriptor())


def _manifest(document: Document, wanted: Wanted) -> Manifest:
    return Manifest.from_node(
        parse_document(document.data, f"The manifest {document.digest} of {wanted.what}"), document.media_type
    )


def _blobs(document: Document) -> tuple[Descriptor, ...]:
    """What a manifest that is not unpacked consists of; nothing for an index."""
    if document.media_type in INDEXES:
        return ()
    return opaque_blobs(parse_document(document.data, f"The manifest {document.digest}"), document.media_type)


def _resolve(sources: list[Repository], wanted: Wanted) -> tuple[int, _Resolved]:
    """What is wanted from the first source that has it, and which that is."""
    for place, source in enumerate(sources):
        try:
            return place, _resolved(source, wanted)
        except GearError:
            if place == len(sources) - 1:
                raise
    raise AssertionError("unreachable")


def _resolved(source: Repository, wanted: Wanted) -> _Resolved:
    top = source.manifest(wanted.name)
    if top.media_type not in INDEXES:
        return _Resolved((top,))
    known: dict[str, Document] = {}
    if wanted.every:
        _gather(source, top, known, 1)
    chain = [top]
    for _ in range(NESTING_LIMIT):
        entry = choose(_entries(source, chain[-1]), wanted.platform, wanted.what)
        chain.append(known.get(entry.digest) or _entry(source, entry))
        if chain[-1].media_type not in INDEXES:
            return _Resolved(tuple(chain), tuple(known.values()))
    raise _too_deep(wanted.what)


def _too_deep(what: str) -> IntegrityError:
    return IntegrityError(f"{what} has indexes nested more than {NESTING_LIMIT} deep.")


def _entries(source: Repository, document: Document) -> list[Descriptor]:
    what = f"The index {document.digest} of {source.what}"
    return index_entries(parse_document(document.data, what), document.media_type)


def _entry(source: Repository, entry: Descriptor) -> Document:
    """The document that an index announces."""
    found = source.manifest(entry.digest, entry)
    if entry.media_type and found.media_type != entry.media_type:
        raise IntegrityError(
            f"{source.what} sends {entry.digest} as {found.media_type!r}, "
            f"but its index announces {entry.media_type!r}."
        )
    return found


def _gather(source: Repository, index: Document, known: dict[str, Document], depth: int) -> None:
    """Everything in *index*, innermost first."""
    what = f"The index {index.digest} of {source.what}"
    for entry in _entries(source, index):
        if entry.digest in known:
            continue
        if len(known) == ENTRY_LIMIT:
            raise IntegrityError(f"{what} has more than {ENTRY_LIMIT} images.")
        indexes.check_entry(entry, what)
        document = _entry(source, entry)
        if document.media_type in INDEXES:
            if depth == NESTING_LIMIT:
                raise _too_deep(what)
            _gather(source, document, known, depth + 1)
        known[document.digest] = document


def _fetch(
    layout: Layout,
    sources: list[Repository],
    manifest: Manifest,
    opaque: Iterable[Descriptor],
    progress: Progress,
    parallel: int,
) -> None:
    """Put config and layers into the store, and the blobs of what is not unpacked."""
    what = f"The image config {manifest.config.digest}"
    leases.pin(layout, manifest.config.digest)
    if store.is_here(layout, manifest.config):
        data, _ = store.read_document(layout, manifest.config.digest, "the image config")
    else:
        data = _first(sources, lambda source: source.small_blob(manifest.config))
    config = ImageConfig.from_mapping(parse_document(data, what).value, what)
    if config.os not in ("", "linux"):
        raise IntegrityError(f"{what} is for {config.os[:40]!r}, not for Linux.")
    if len(config.diff_ids) != len(manifest.layers):
        raise IntegrityError(
            f"The image has {len(manifest.layers)} layers, but its config lists {len(config.diff_ids)}."
        )
    expected = Descriptor(OCI_CONFIG, manifest.config.digest, manifest.config.size)
    store.add_blob(layout, io.BytesIO(data), expected=expected)
    # The same layer may be there twice, and must not wait for itself.
    diff_ids: dict[str, str] = {}
    for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
        if diff_ids.setdefault(blob.digest, diff_id) != diff_id:
            raise IntegrityError(f"The config of the image lists two diff ids for the layer {blob.digest}.")
    blobs = {blob.digest: blob for blob in (*manifest.layers, *opaque)}
    _Fetching(layout, sources, blobs.values(), diff_ids, progress).run(parallel)
    with files.explained(f"write to {layout.images}"):
        for kind in ("blobs", "layers"):
            for algorithm in ("sha256", "sha512"):
                files.sync_directory(layout.images / kind / algorithm)


def _first(sources: list[Repository], ask: Callable[[Repository], bytes]) -> bytes:
    for source in sources[:-1]:
        with suppress(GearError):
            return ask(source)
    return ask(sources[-1])


class _Fetching:
    """All blobs of what is wanted, several at once; the first failure ends the others."""

    def __init__(
        self,
        layout: Layout,
        sources: list[Repository],
        blobs: Iterable[Descriptor],
        diff_ids: Mapping[str, str],
        progress: Progress,
    ) -> None:
        """What has a diff id is unpacked."""
        self._sources, self._progress = sources, progress
        self._stop = threading.Event()
        self._waiting: queue.SimpleQueue[tuple[Descriptor, Layer]] = queue.SimpleQueue()
        self._failures: list[BaseException] = []
        syncer = Syncer(layout.images)
        for blob in blobs:
            report = _reporter(progress, blob.digest)
            layer = Layer(layout, blob, diff_ids.get(blob.digest), syncer, self._stop, report)
            progress.begin(blob.digest, blob.size)
            if layer.is_here():
                progress.end(blob.digest, "already here")
            else:
                self._waiting.put((blob, layer))

    def run(self, parallel: int) -> None:
        threads = [
            threading.Thread(target=self._work, name=f"pull {number}")
            for number in range(min(parallel, self._waiting.qsize()))
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # the interrupt key
            self._end()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            raise
        failures = sorted(self._failures, key=lambda failure: isinstance(failure, Cancelled))
        if failures:
            raise failures[0]

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                blob, layer = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                layer.fetch(self._sources)
                self._progress.end(blob.digest, "done")
            except BaseException as error:
                self._failures.append(error)
                self._progress.end(blob.digest, "failed")
                self._end()
                return

    def _end(self) -> None:
        self._stop.set()
        for source in self._sources:
            source.transport.stop()


def _reporter(progress: Progress, digest: str) -> Callable[[int], None]:
    return lambda count: progress.advance(digest, count)
