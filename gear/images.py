"""What people do with images on this host: list, inspect, tag, remove.

Not how images come here (gear/loading.py, gear/pulling.py) or are kept (gear/store.py), and nothing is printed here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gear import (
    containers,
    indexes,
    leases,
    notices,
    signature_record,
    store,
    upgrade_record,
)
from gear.errors import GearError, NotFoundError, UsageError
from gear.model import Layout
from gear.oci import (
    Image,
    Manifest,
    Platform,
    Reference,
)
from gear.records import dataclass


def host_platform() -> Platform:
    """What images have to be built for to run here."""
    return Platform.of_machine(os.uname().machine)


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
        "signatures": [one.kind for one in signature_record.read(layout, image.digest).signatures],
        "signers": _signers(layout, image),
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


def _signers(layout: Layout, image: Image) -> list[str]:
    """The keys of the policy that signed it, by the signatures that are kept; none where it would not be let in."""
    from gear import signatures  # here: it knows the network, which listing images need not pay for

    if image.reference != image.digest and signature_record.read(layout, image.digest).signatures:
        with suppress(GearError):
            return list(signatures.check(layout, image).signers)
    return []


def users(layout: Layout) -> dict[str, list[str]]:
    """The digests that installed containers run, or that their snapshots or a rollback need, with the names of these.

    Raises IntegrityError for a spec that can't be read: what it uses is unknown, so nothing may be removed.
    """
    result: dict[str, list[str]] = {}
    current: dict[str, str] = {}
    for name in containers.names(layout):
        current[name] = containers.get(layout, name).image.digest
        result.setdefault(current[name], []).append(name)
    if any(os.path.lexists(f"{layout.container(name)}/snapshots") for name in current):
        from gear import snapshots  # which brings much that making them needs

        for digest, found in snapshots.users(layout).items():
            result.setdefault(digest, []).extend(found)
    for name, digest in current.items():
        for spec in upgrade_record.specs(layout, name):
            if spec.image.digest != digest:
                result.setdefault(spec.image.digest, []).append(f"{name} (gear rollback {name})")
    return result


def in_use(layout: Layout) -> dict[str, list[str]]:
    """The digests of images that must stay, and who needs them: containers and mounts."""
    from gear import imagemounts

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
    from gear import garbage  # which is no matter of who lists

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
            else "Remove these first.",
        )
    for text in doomed:
        store.remove_reference(layout, text)
    notices.note("remove-image", IMAGE_NAME=name, IMAGE_DIGEST=digest)
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
