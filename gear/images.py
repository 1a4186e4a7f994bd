"""What people do with images on this host: load, import, list, inspect, remove.

Not how images are kept (gear/store.py), and nothing is printed here.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gear import containers, files, garbage, pack, snapshots, sources, store
from gear.changes import Changes
from gear.compression import Reader, decompressed, kind_of
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


def host_platform() -> Platform:
    """What images have to be built for to run here."""
    return Platform.of_machine(os.uname().machine)


def load(layout: Layout, source: str, *, reference: str | None = None) -> list[Image]:
    """Put the images of an OCI layout or docker-archive (a path, or `-`) into the store.

    *reference* names the only image of the source, or chooses the one that the source calls so.
    Loading what is here already changes nothing.
    """
    wanted = None if reference is None else str(Reference.parse(reference))
    with adding(layout), sources.opened(source, layout.images) as opened:
        found = sources.candidates(opened, host_platform(), reference)
        if wanted is not None:
            return [_add(layout, sources.one(found, opened.what), (wanted,))]
        names = [tuple(str(Reference.parse(name)) for name in candidate.names) for candidate in found]
        if not all(names):
            raise UsageError(
                f"{opened.what} holds an image without a name.", hint="Give it one with --name REFERENCE."
            )
        return [
            image
            for candidate, own in zip(found, names, strict=True)
            for image in _add_all(layout, candidate, own)
        ]


@contextmanager
def adding(layout: Layout) -> Iterator[None]:
    """Hold a lease of the store.  When adding fails, what was added so far goes again, unless somebody else is at
    work, who may need it; `gear clean` finds it then."""
    store.prepare(layout)
    garbage.sweep(layout)
    try:
        with store.lease(layout):
            yield
    except BaseException:
        with suppress(GearError):
            garbage.collect(layout, {*users(layout), *store.held(layout)})
        raise


def _add_all(layout: Layout, candidate: sources.Candidate, names: tuple[str, ...]) -> list[Image]:
    """Add one image under all its names."""
    first = _add(layout, candidate, names)
    return [Image(name, first.digest, first.config, first.layers, first.size) for name in names]


def _add(layout: Layout, candidate: sources.Candidate, names: tuple[str, ...]) -> Image:
    """Put one image into the store, bottom up, and give it *names*."""
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
        kind = OCI_MANIFEST
    else:
        data, kind = candidate.manifest, candidate.manifest_type
    return publish(layout, data, kind, names)


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


def publish(layout: Layout, manifest: bytes, kind: str, names: Sequence[str]) -> Image:
    """Make an image whose blobs and layers are all here visible, under *names*.  The caller is adding()."""
    blob = store.add_blob(layout, Bytes(manifest), media_type=kind)
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
    with adding(layout), ExitStack() as stack:
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
            "created": timestamp(root.stat().st_mtime),
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created_by": "gear image import"}],
        }
        data = files.dump_json(document)
        config = store.add_blob(layout, Bytes(data), media_type=OCI_CONFIG)
        manifest = Manifest(OCI_MANIFEST, config, (blob,))
        return publish(layout, files.dump_json(manifest.document()), OCI_MANIFEST, (name,))


def _root_stream(layout: Layout, source: str, stack: ExitStack) -> Reader:
    """The layer that *source* becomes; gzip and zstd stay as they are."""
    if source != "-" and os.path.isdir(source):
        return pack.directory(Path(source))
    file, what = sources.seekable(source, layout.images, stack)
    kind = kind_of(os.pread(file.fileno(), 6, 0))
    if kind in LAYERS.values():
        return file
    return stack.enter_context(decompressed(file, what, kind))


def timestamp(seconds: float) -> str:
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
    for reference, digest in [*known, *((digest, digest) for digest in nameless)]:
        try:
            image = store.image(layout, digest, reference)
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
    return {
        "reference": "" if image.reference == image.digest else image.reference,
        "references": [text for text, digest in store.references(layout).items() if digest == image.digest],
        "digest": image.digest,
        "mediaType": manifest.media_type,
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
    """The digests that installed containers run or that snapshots of them need, with the names of these.

    Raises IntegrityError for a spec that can't be read: what it uses is unknown, so nothing may be removed.
    """
    result: dict[str, list[str]] = {}
    for name in containers.names(layout):
        result.setdefault(containers.get(layout, name).image.digest, []).append(name)
    for digest, found in snapshots.users(layout).items():
        result.setdefault(digest, []).extend(found)
    return result


def remove(layout: Layout, name: str, *, in_use: Mapping[str, Sequence[str]]) -> list[str]:
    """Forget what *name* stands for, and remove from disk what no other image needs.

    Returns what was removed: references, and the digest if the image itself went.  By digest all its
    references go.
    Refuses while containers in *in_use* (digest -> names) need it.  When somebody else works with the store,
    the disk space is freed by a later removal.
    """
    reference, digest = _target(layout, name)
    known = store.references(layout)
    names = [text for text, target in known.items() if target == digest]
    doomed = [reference] if reference is not None else names
    last = set(doomed) >= set(names)
    if last and (names_of_users := in_use.get(digest)):
        raise GearError(
            f"The image {name} is in use by {', '.join(names_of_users)}.",
            hint="Remove these first.",
        )
    for text in doomed:
        store.remove_reference(layout, text)
    if not last:
        return doomed
    keep = (set(store.held(layout)) | set(in_use)) - {digest}
    freed = garbage.collect(layout, keep, drop=digest)
    return doomed if freed is None else [*doomed, digest]


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
