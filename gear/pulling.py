"""Pulling images: from a reference to an image in the store, and when that is done.

Not the registry's protocol (gear/registry.py), nor how one layer comes (gear/incoming.py).  Nothing is visible before
all of an image is here; what a network failure leaves is taken up by the next pull.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from gear import files, garbage, images, leases, registries, store
from gear.containers import is_directory
from gear.document import parse_document
from gear.errors import GearError, IntegrityError, NotFoundError, RemoteError, UsageError
from gear.incoming import Layer, Syncer
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
    Reference,
    choose,
    index_entries,
)
from gear.reference import Remote, meant
from gear.registries import Registries
from gear.registry import Denied, Document, Repository
from gear.signatures import Gate

NESTING_LIMIT = 3
POLICIES = ("missing", "always", "never", "newer")


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


def pull(
    layout: Layout,
    text: str,
    *,
    settings: Registries | None = None,
    platform: Platform | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Get what *text* means; a short name is looked for in each registry that is configured for such."""
    settings = settings or registries.load(layout)
    candidates = meant(text, settings.search, settings.aliases)
    failures: list[GearError] = []
    for remote in candidates:
        try:
            return _pull(layout, remote, settings, platform or images.host_platform(), progress or Silent())
        except (NotFoundError, Denied) as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise NotFoundError(
        f"No registry has {text}: {', '.join(str(remote) for remote in candidates)}.",
        details=[error.message for error in failures],
    )


def _pull(
    layout: Layout, remote: Remote, settings: Registries, platform: Platform, progress: Progress
) -> Pulled:
    reference = str(Reference.parse(str(remote)))  # raises when that is too long for the store
    gate = Gate.of_registry(layout, remote)
    sources = [Repository.opened(endpoint, settings) for endpoint in settings.endpoints(remote)]
    store.prepare(layout)
    garbage.sweep(layout)
    try:
        with leases.pinning(layout):
            place, chain = _resolve(sources, remote, platform)
            ordered, document = sources[place:] + sources[:place], chain[-1]
            # Before anything that is in them is looked at, or kept.
            gate.pass_pulled(chain, ordered, settings)
            manifest = Manifest.from_node(
                parse_document(document.data, f"The manifest {document.digest} of {remote}"),
                document.media_type,
            )
            before = store.references(layout).get(reference)
            _fetch(layout, ordered, manifest, settings, progress)
            blob = store.add_blob(layout, images.Bytes(document.data), expected=document.descriptor())
            gate.keep(document.digest, [(index.descriptor(), index.data) for index in chain[-2::-1]])
            image = store.publish(layout, blob, reference)
    except IntegrityError:
        # What a registry that lies has sent is of no use to the next pull.
        with suppress(GearError):
            garbage.collect(layout, {*images.users(layout), *store.held(layout)})
        raise
    finally:
        for source in sources:
            source.transport.close()
    return Pulled(reference, image, before != image.digest)


def _resolve(sources: list[Repository], remote: Remote, platform: Platform) -> tuple[int, list[Document]]:
    """The manifest for *platform* from the first source that has it, and which that is.

    In front of the manifest are the indexes that led to it.
    """
    for place, source in enumerate(sources):
        try:
            chain = [source.manifest(remote.wanted)]
            for _ in range(NESTING_LIMIT):
                document = chain[-1]
                if document.media_type not in INDEXES:
                    return place, chain
                what = f"The index {document.digest} of {source.what}"
                entries = index_entries(parse_document(document.data, what), document.media_type)
                entry = choose(entries, platform, str(remote))
                found = source.manifest(entry.digest, entry)
                if entry.media_type and found.media_type != entry.media_type:
                    raise IntegrityError(
                        f"{source.what} sends {entry.digest} as {found.media_type!r}, "
                        f"but its index announces {entry.media_type!r}."
                    )
                chain.append(found)
            raise IntegrityError(f"{remote} has indexes nested more than {NESTING_LIMIT} deep.")
        except GearError:
            if place == len(sources) - 1:
                raise
    raise AssertionError("unreachable")


def _fetch(
    layout: Layout, sources: list[Repository], manifest: Manifest, settings: Registries, progress: Progress
) -> None:
    """Put config and layers into the store."""
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
    store.add_blob(layout, images.Bytes(data), expected=expected)
    _Fetching(layout, sources, manifest, config, progress).run(settings.parallel)
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
    """All layers of one image, several at once; the first failure ends the others."""

    def __init__(
        self,
        layout: Layout,
        sources: list[Repository],
        manifest: Manifest,
        config: ImageConfig,
        progress: Progress,
    ) -> None:
        self._sources, self._progress = sources, progress
        self._stop = threading.Event()
        self._waiting: queue.SimpleQueue[tuple[Descriptor, Layer]] = queue.SimpleQueue()
        self._failures: list[BaseException] = []
        syncer = Syncer(layout.images)
        # The same layer may be there twice, and must not wait for itself.
        wanted: dict[str, str] = {}
        for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            if wanted.setdefault(blob.digest, diff_id) != diff_id:
                raise IntegrityError(
                    f"The config of the image lists two diff ids for the layer {blob.digest}."
                )
        for blob in {blob.digest: blob for blob in manifest.layers}.values():
            report = _reporter(progress, blob.digest)
            layer = Layer(layout, blob, wanted[blob.digest], syncer, self._stop, report)
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


def ensure(
    layout: Layout,
    text: str,
    policy: str,
    *,
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> str:
    """Have the image *text* here as *policy* wants it, and return what to call it: a reference of the store.

    A directory of the host is no image.  Digits of a digest and what has no name are never pulled.
    """
    if policy not in POLICIES:
        raise UsageError(f"{policy!r} is no policy for pulling.", hint=f"It is one of {', '.join(POLICIES)}.")
    if is_directory(text):
        return text
    here: Image | None = None
    missing: GearError | None = None
    try:
        here = store.resolve(layout, text)
    except NotFoundError as error:
        missing = error
    if here is not None and policy in ("missing", "never"):
        return here.reference
    if missing is not None and policy == "never":
        raise missing
    if here is not None and (here.reference == here.digest or here.digest.partition(":")[2].startswith(text)):
        return here.reference
    try:
        settings = registries.load(layout)
        if here is not None and policy == "newer" and not _is_newer(text, here, settings):
            return here.reference
        return pull(layout, text, settings=settings, progress=progress).reference
    except (RemoteError, NotFoundError) as error:
        if here is not None and policy == "newer" and isinstance(error, RemoteError):
            warn(f"{here.reference} is used as it is here: {error.message}")
            return here.reference
        if missing is not None:
            raise type(error)(
                f"{missing.message.rstrip('.')}, and it can't be pulled: {error.message}",
                hint=error.hint or missing.hint,
                details=error.details,
            ) from error
        raise


def _is_newer(text: str, here: Image, settings: Registries) -> bool:
    """Whether a registry may have another image than *here* under the name; asks without fetching anything."""
    remote = meant(text, settings.search, settings.aliases)[0]
    source = Repository.opened(settings.target(remote), settings)
    try:
        return source.head(remote.wanted) != here.digest
    finally:
        source.transport.close()
