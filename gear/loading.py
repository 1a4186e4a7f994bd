"""Images from local files: loading archives and layouts, and making one of a root file system.

Not what the files look like (gear/sources.py), nor how images are kept (gear/store.py).
"""

from __future__ import annotations

import datetime
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gear import files, garbage, images, leases, pack, sources, store
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
    Reference,
)

if TYPE_CHECKING:
    from gear.signatures import Gate


def load(layout: Layout, source: str, *, names: Sequence[str] = ()) -> list[Image]:
    """Put the images of an OCI layout or docker-archive (a path, or `-`) into the store.

    *names* chooses those that the source calls so; a single one also names the only image of the source.
    Loading what is here already changes nothing.
    """
    wanted = [str(Reference.parse(name)) for name in names]
    with adding(layout), sources.opened(source, layout.images) as opened:
        found = sources.candidates(opened, images.host_platform())
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
def adding(layout: Layout) -> Iterator[None]:
    """Hold a lease of the store.  When adding fails, what was added so far goes again, unless somebody else needs it or
    the store as it is; `gear clean` finds it then."""
    store.prepare(layout)
    garbage.sweep(layout)
    try:
        with leases.pinning(layout):
            yield
    except BaseException:
        with suppress(GearError):
            garbage.collect(layout, {*images.users(layout), *store.held(layout)})
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
    return publish(layout, data, kind, names, digest)


def _admit(
    gates: Sequence[Gate], source: sources.Files, candidate: sources.Candidate, manifest: bytes
) -> None:
    """Raises RefusedError when the image may not have one of its names."""
    from gear import signature_files

    digest = candidate.digest or digest_of(manifest)
    chain = [(digest, manifest), *((index.digest, data) for index, data in candidate.indexes)]
    for gate in gates:
        if gate.asks:
            beside = signature_files.vouching(source, {one for one, _ in chain})
            gate.pass_loaded(chain, lambda digests: signature_files.found(source, digests), beside)


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


def publish(layout: Layout, manifest: bytes, kind: str, names: Sequence[str], digest: str = "") -> Image:
    """Make an image whose blobs and layers are all here visible, under *names*.  The caller is adding()."""
    expected = Descriptor(kind, digest or digest_of(manifest), len(manifest))
    blob = store.add_blob(layout, io.BytesIO(manifest), expected=expected)
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
        platform = images.host_platform()
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
        config = store.add_blob(layout, io.BytesIO(data), media_type=OCI_CONFIG)
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
