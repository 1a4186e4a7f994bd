"""What people do with images on this host: load, import, list, inspect, remove.

Not how images are kept (gear/store.py), and nothing is printed here.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gear import containers, files, garbage, imagemounts, indexes, leases, sources, store
from gear.changes import Changes
from gear.compression import Reader, decompressed, kind_of
from gear.document import digest_of
from gear.errors import GearError, IntegrityError, NotFoundError, UsageError
from gear.model import Layout
from gear.oci import (
    LAYERS,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Image,
    ImageConfig,
    Manifest,
    Platform,
    Reference,
)
from gear.pack import Packed

if TYPE_CHECKING:
    from gear.signatures import Gate


def host_platform() -> Platform:
    """What images have to be built for to run here."""
    return Platform.of_machine(os.uname().machine)


def load(layout: Layout, source: str, *, names: Sequence[str] = ()) -> list[Image]:
    """Put the images of an OCI layout or docker-archive (a path, or `-`) into the store.

    *names* chooses those that the source calls so; a single one also names the only image of the source.
    Loading what is here already changes nothing.
    """
    wanted = [str(Reference.parse(name)) for name in names]
    with _adding(layout), sources.opened(source, layout.images) as opened:
        found = sources.candidates(opened, host_platform())
        called = [tuple(str(Reference.parse(name)) for name in candidate.names) for candidate in found]
        if len(wanted) == 1 and wanted[0] not in {name for own in called for name in own}:
            return [_add(layout, opened, sources.one(found, opened.what), (wanted[0],))]
        if wanted:
            if missing := [name for name in wanted if not any(name in own for own in called)]:
                have = ", ".join(sorted(name for own in called for name in own))
                raise NotFoundError(
                    f"{opened.what} holds no image {missing[0]}.", hint=f"It holds {have}." if have else None
                )
            called = [tuple(name for name in own if name in wanted) for own in called]
            found, called = _those_with_a_name(found, called)
        if not all(called):
            raise UsageError(
                f"{opened.what} holds an image without a name.", hint="Give it one with --name REFERENCE."
            )
        return [
            image
            for candidate, own in zip(found, called, strict=True)
            for image in _add_all(layout, opened, candidate, own)
        ]


def _those_with_a_name(
    found: list[sources.Candidate], called: list[tuple[str, ...]]
) -> tuple[list[sources.Candidate], list[tuple[str, ...]]]:
    pairs = [(candidate, own) for candidate, own in zip(found, called, strict=True) if own]
    return [candidate for candidate, _ in pairs], [own for _, own in pairs]


@contextmanager
def _adding(layout: Layout) -> Iterator[None]:
    """Hold a lease of the store.  When adding fails, what was added so far goes again, unless somebody else needs it or
    the store as it is; `gear clean` finds it then."""
    store.prepare(layout)
    garbage.sweep(layout)
    try:
        with leases.pinning(layout):
            yield
    except BaseException:
        with suppress(GearError):
            garbage.collect(layout, {*users(layout), *store.held(layout)})
        raise


def _add_all(
    layout: Layout, source: sources.Files, candidate: sources.Candidate, names: tuple[str, ...]
) -> list[Image]:
    """Add one image under all its names."""
    first = _add(layout, source, candidate, names)
    return [Image(name, first.digest, first.config, first.layers, first.size) for name in names]


def _add(
    layout: Layout, source: sources.Files, candidate: sources.Candidate, names: tuple[str, ...]
) -> Image:
    """Put one image into the store, bottom up, and give it *names*, if the policy lets it have them."""
    from gear.signatures import Gate  # here: it knows the network, which listing images need not pay for

    gates = [Gate.of_file(layout, name, sources.transport(source, candidate), source.path) for name in names]
    if candidate.manifest is not None:
        _admit(gates, source, candidate, candidate.manifest)
    expected = candidate.config.expected
    config = store.add_blob(layout, candidate.config.open(), expected=expected, media_type=OCI_CONFIG)
    parsed = _config(layout, config)
    if len(parsed.diff_ids) != len(candidate.layers):
        raise IntegrityError(
            f"The image {names[0]} has {len(candidate.layers)} layers, "
            f"but its config lists {len(parsed.diff_ids)}."
        )
    layers = []
    for part, diff_id in zip(candidate.layers, parsed.diff_ids, strict=True):
        blob = store.add_blob(layout, part.open(), expected=part.expected)
        if part.expected is None:
            blob = Descriptor(_layer_type(layout, blob), blob.digest, blob.size)
        store.add_layer(layout, blob, diff_id)
        layers.append(blob)
    if candidate.manifest is None:
        data = files.dump_json(Manifest(OCI_MANIFEST, config, tuple(layers)).document())
        kind, digest = OCI_MANIFEST, ""
        _admit(gates, source, candidate, data)
    else:
        data, kind, digest = candidate.manifest, candidate.manifest_type, candidate.digest
    for gate in gates:
        gate.keep(digest or digest_of(data), candidate.indexes)
    return _publish(layout, data, kind, names, digest)


def _admit(
    gates: Sequence[Gate], source: sources.Files, candidate: sources.Candidate, manifest: bytes
) -> None:
    """Raises RefusedError when the image may not have one of its names."""
    from gear import signature_files

    digest = candidate.digest or digest_of(manifest)
    chain = [(digest, manifest), *((index.digest, data) for index, data in candidate.indexes)]
    for gate in gates:
        gate.pass_loaded(chain, lambda digests: signature_files.found(source, digests))


def _config(layout: Layout, blob: Descriptor) -> ImageConfig:
    _, node = store.read_document(layout, blob.digest, "the image config")
    config = ImageConfig.from_mapping(node.value, node.what)
    if config.os not in ("", "linux"):
        raise IntegrityError(f"{node.what} is for {config.os[:40]!r}, not for Linux.")
    return config


def _layer_type(layout: Layout, blob: Descriptor) -> str:
    """The media type of a layer blob that came without one."""
    with open(store.blob_path(layout, blob.digest), "rb", buffering=0) as file:
        kind = kind_of(file.read(6))
    known = {how: name for name, how in LAYERS.items() if name.startswith(OCI_LAYER)}
    if kind not in known:
        raise IntegrityError(f"The layer {blob.digest} is compressed with {kind}, which images may not be.")
    return known[kind]


class Bytes:
    """A document as a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data


def _publish(layout: Layout, manifest: bytes, kind: str, names: Sequence[str], digest: str = "") -> Image:
    expected = Descriptor(kind, digest or digest_of(manifest), len(manifest))
    blob = store.add_blob(layout, Bytes(manifest), expected=expected)
    image = store.publish(layout, blob, names[0])
    for name in names[1:]:
        store.set_reference(layout, name, image.digest)
    return image


def import_root(layout: Layout, source: str, reference: str, *, changes: Changes) -> Image:
    """Make an image of one layer from a root file system: a directory, a tar of any compression, or `-`.

    *changes* says how it is to be run.  The creation time is that of the root directory, so the same
    source gives the same digest.
    """
    name = str(Reference.parse(reference))
    run = changes.config()
    ImageConfig.from_mapping({"config": run})
    with _adding(layout), ExitStack() as stack:
        blob = store.add_blob(layout, _root_stream(layout, source, stack))
        blob = Descriptor(_layer_type(layout, blob), blob.digest, blob.size)
        diff_id = store.add_layer(layout, blob, None)
        root = store.layer_root(layout, diff_id)
        if (root / "index.json").is_file() or (root / "manifest.json").is_file():
            raise UsageError(
                f"{source} is an image, not a root file system.", hint="Use `gear image load` for it."
            )
        platform = host_platform()
        document = {
            "architecture": platform.architecture,
            "os": platform.os,
            **({"variant": platform.variant} if platform.variant else {}),
            "created": _timestamp(root.stat().st_mtime),
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created_by": "gear image import"}],
        }
        data = files.dump_json(document)
        config = store.add_blob(layout, Bytes(data), media_type=OCI_CONFIG)
        manifest = Manifest(OCI_MANIFEST, config, (blob,))
        return _publish(layout, files.dump_json(manifest.document()), OCI_MANIFEST, (name,))


def _root_stream(layout: Layout, source: str, stack: ExitStack) -> Reader:
    """The layer that *source* becomes; gzip and zstd stay as they are."""
    if source != "-" and os.path.isdir(source):
        return Packed(Path(source))
    file, what = sources.seekable(source, layout.images, stack)
    kind = kind_of(os.pread(file.fileno(), 6, 0))
    if kind in LAYERS.values():
        return file
    return stack.enter_context(decompressed(file, what, kind))


def _timestamp(seconds: float) -> str:
    """RFC 3339, in whole seconds."""
    moment = datetime.datetime.fromtimestamp(int(max(0, min(seconds, 1 << 37))), datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Row:
    """One line of `gear image list`."""

    reference: str
    digest: str
    size: int
    created: str
    architecture: str
    containers: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "digest": self.digest,
            "size": self.size,
            "created": self.created,
            "architecture": self.architecture,
            "containers": list(self.containers),
        }


def listing(layout: Layout) -> tuple[list[Row], list[GearError]]:
    """All images, and what is wrong with those that can't be read."""
    rows: list[Row] = []
    faults: list[GearError] = []
    known = list(store.references(layout).items())
    nameless = sorted(set(store.held(layout)) - {digest for _, digest in known})
    try:
        used = users(layout)
    except GearError as error:  # a damaged container is no reason to show no images
        faults.append(error)
        used = {}
    read: dict[str, Image] = {}  # an image may have many names
    for reference, digest in [*known, *((digest, digest) for digest in nameless)]:
        try:
            image = read[digest] = read.get(digest) or store.image(layout, digest, reference)
        except GearError as error:
            faults.append(error)
            continue
        name = "" if reference == digest else reference
        created, architecture = image.config.created, image.config.architecture
        rows.append(Row(name, digest, image.size, created, architecture, tuple(used.get(digest, ()))))
    return rows, faults


def inspect(layout: Layout, name: str) -> dict[str, Any]:
    """All that is known of an image, as JSON."""
    image = store.resolve(layout, name)
    config = image.config
    _, node = store.read_document(layout, image.digest, "the manifest")
    manifest = Manifest.from_node(node)
    index = indexes.of_reference(layout, image.reference)
    return {
        "reference": "" if image.reference == image.digest else image.reference,
        "references": [text for text, digest in store.references(layout).items() if digest == image.digest],
        "digest": image.digest,
        "mediaType": manifest.media_type,
        "index": index,
        "platforms": indexes.platforms(layout, index) if index else [],
        "size": image.size,
        "created": config.created,
        "architecture": config.architecture,
        "os": config.os,
        "layers": [
            {"digest": blob.digest, "mediaType": blob.media_type, "size": blob.size, "diffId": diff_id}
            for blob, diff_id in zip(manifest.layers, image.layers, strict=True)
        ],
        "config": {
            "digest": manifest.config.digest,
            "entrypoint": None if config.entrypoint is None else list(config.entrypoint),
            "cmd": None if config.cmd is None else list(config.cmd),
            "env": dict(config.env),
            "user": config.user,
            "workdir": config.workdir,
            "stopSignal": config.stop_signal,
            "labels": dict(config.labels),
            "volumes": list(config.volumes),
            "exposedPorts": list(config.exposed_ports),
            "healthcheck": None if config.healthcheck is None else dict(config.healthcheck),
        },
    }


def users(layout: Layout) -> dict[str, list[str]]:
    """The digests that installed containers run, with the containers' names.

    Raises IntegrityError for a spec that can't be read: what it uses is unknown, so nothing may be removed.
    """
    result: dict[str, list[str]] = {}
    for name in containers.names(layout):
        result.setdefault(containers.get(layout, name).image.digest, []).append(name)
    return result


def in_use(layout: Layout) -> dict[str, list[str]]:
    """The digests of images that must stay, and who needs them: containers and mounts."""
    result = users(layout)
    for mounted in imagemounts.mounted(layout):
        result.setdefault(mounted.digest, []).append(f"the mount on {mounted.directory}")
    return result


def pinned(layout: Layout, text: str) -> Image:
    """The image that *text* means, which stays as long as the pinning lease that the caller holds."""
    while True:
        image = store.resolve(layout, text)
        leases.pin(layout, image.digest)
        # It may have gone, or the name may have moved, before it was pinned.
        if store.resolve(layout, text).digest == image.digest:
            return image


def tag(layout: Layout, source: str, targets: Sequence[str]) -> list[Image]:
    """Give the image *source* more names; one that stands for another image stands for this one from then on."""
    with store.lease(layout):
        image = store.resolve(layout, source)
        names = [Reference.parse(target) for target in targets]
        for name in names:
            if name.digest not in (None, image.digest):
                raise UsageError(f"{source} is {image.digest}, and can't be called {name}.")
        for name in names:
            store.set_reference(
                layout, str(name), image.digest, indexes.of_reference(layout, image.reference)
            )
    return [Image(str(name), image.digest, image.config, image.layers, image.size) for name in names]


def remove(
    layout: Layout,
    name: str,
    *,
    in_use: Mapping[str, Sequence[str]],
    warn: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Forget what *name* stands for, and remove from disk what no other image needs.

    Returns what was removed: references, and the digest if the image itself went.  By digest all its
    references go.
    Refuses while those in *in_use* (digest -> names) need it.  What another command needs at the moment stays on the
    disk until a later removal, and *warn* is told.
    """
    reference, digest = _target(layout, name)
    known = store.references(layout)
    was_index = reference is not None and indexes.of_reference(layout, reference)
    names = [text for text, target in known.items() if target == digest]
    doomed = [reference] if reference is not None else names
    last = set(doomed) >= set(names)
    if last and (names_of_users := in_use.get(digest)):
        raise GearError(
            f"The image {name} is in use by {', '.join(names_of_users)}.",
            hint="gear image unmount --all ends mounts."
            if any(user.startswith("the mount") for user in names_of_users)
            else "Remove these containers first.",
        )
    for text in doomed:
        store.remove_reference(layout, text)
    held = set(store.held(layout)) | set(in_use)
    if not last:
        if was_index:  # the other references keep the image, but not those for other platforms
            garbage.collect(layout, held)
        return doomed
    freed = garbage.collect(layout, held - {digest}, drop=digest, wait=leases.PATIENCE_S)
    if freed is None or digest in store.held(layout):
        warn(f"{digest} stays on the disk: {leases.who_works(layout)}; gear image prune removes it later")
        return doomed
    return [*doomed, digest]


def _target(layout: Layout, name: str) -> tuple[str | None, str]:
    """The reference, if it is one, and the digest that *name* means; also when the image is damaged."""
    known = store.references(layout)
    with suppress(UsageError):
        text = store.named(known, Reference.parse(name))
        if text is not None:
            return text, known[text]
    digests = [digest for digest in store.held(layout) if digest == name]
    if digests:
        return None, digests[0]
    image = store.resolve(layout, name)
    if image.digest not in store.held(layout):
        raise NotFoundError(f"There is no image {name!r} on this host.")
    return None, image.digest
