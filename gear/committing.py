"""Making an image of a container: its image's layers, what it has written on top, and how it was asked to run."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gear import changed, composing, containers, contents, files, leases, loading, notices, pausing, store
from gear.changes import Changes
from gear.errors import GearError
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
from gear.patterns import pattern
from gear.records import dataclass
from gear.signals import signal_number
from gear.spec import Spec
from gear.systemd import Manager

# What Docker's image configs say of the container that an image was made from; it is not true of the new one.
_OF_ANOTHER = ("id", "parent", "container", "container_config", "docker_version")
_TIME = pattern(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T", re.ASCII)


@dataclass(frozen=True)
class Wishes:
    """What the new image is to say of itself: instructions as in a Dockerfile, who made it, and why."""

    instructions: Sequence[str] = ()
    author: str = ""
    message: str = ""


def commit(
    manager: Manager,
    layout: Layout,
    name: str,
    reference: str,
    wishes: Wishes,
    *,
    pause: bool = True,
    warn: Callable[[str], None] | None = None,
) -> Image:
    """Make the image *reference* of the container *name*; the same container gives the same digest.

    A container that runs is paused unless *pause* is False; then *warn* hears of files that changed meanwhile.  What
    is in volumes is not part of it.  Raises GearError.
    """
    name_of_image = str(Reference.parse(reference))
    spec = containers.get(layout, name)
    asked = _asked(spec, wishes.instructions)
    if spec.image.directory is not None:
        raise GearError(
            f"{name} can't become an image: its root is {spec.image.directory}, a directory of this machine.",
            hint=f"gear export {name} | gear image import - IMAGE",
        )
    with loading.adding(layout):
        base = composing.image_of(layout, spec)
        leases.pin(layout, base.digest, *base.layers)
        _, node = store.read_document(layout, base.digest, "the manifest")
        manifest = Manifest.from_node(node)
        # The container, which keeps them here, may be deleted meanwhile, and its image with it.
        leases.pin(layout, manifest.config.digest, *(part.digest for part in manifest.layers))
        layer = _layer(manager, layout, spec, base, pause=pause, warn=warn)
        blob, diff_id, newest_ns = (None, "", 0) if layer is None else layer
        _, node = store.read_document(layout, manifest.config.digest, "the image config")
        created = base.config.created if blob is None else loading.timestamp(newest_ns / 1e9)
        document = _config(node.value, base, asked, wishes, created)
        if blob is not None:
            document["rootfs"]["diff_ids"].append(diff_id)
        else:
            document["history"][-1]["empty_layer"] = True
        ImageConfig.from_mapping(document)
        config = store.add_blob(layout, io.BytesIO(files.dump_json(document)), media_type=OCI_CONFIG)
        layers = [*map(_in_oci, manifest.layers), *([] if blob is None else [blob])]
        data = files.dump_json(Manifest(OCI_MANIFEST, config, tuple(layers)).document())
        image = loading.publish(layout, data, OCI_MANIFEST, (name_of_image,))
        notices.note("commit", CONTAINER_NAME=name, IMAGE_NAME=name_of_image)
        return image


def _layer(
    manager: Manager,
    layout: Layout,
    spec: Spec,
    base: Image,
    *,
    pause: bool,
    warn: Callable[[str], None] | None,
) -> tuple[Descriptor, str, int] | None:
    """The blob of the new layer, its diff id, and when the last of it was changed; None when nothing was."""
    old, new = contents.below(layout, base), contents.whole(layout, spec, base)
    ignored = contents.made_for_mounts(layout, spec.name)
    with pausing.still(manager, layout, spec.name, pause=pause):
        if not changed.is_changed(old, new, spec.name, ignored):
            return None
        stream = changed.Layer(old, new, spec.name, ignored, None if pause else warn)
        blob = store.add_blob(layout, stream, media_type=OCI_LAYER)
    # Unpacked while the container goes on; it also shows that gear itself can read what it wrote.
    return blob, store.add_layer(layout, blob, blob.digest), stream.newest_ns


def _asked(spec: Spec, instructions: Sequence[str]) -> Changes:
    """How the container was asked to run, and what the instructions change of that."""
    asked = Changes(
        cmd=None if spec.command is None else list(spec.command),
        entrypoint=None if spec.entrypoint is None else list(spec.entrypoint),
        env=dict(spec.env),
        user=spec.user or "",
        workdir=spec.workdir or "",
        stop_signal=spec.stop_signal or "",
        labels=dict(spec.labels),
    )
    for instruction in instructions:
        entrypoint = asked.entrypoint
        asked.apply(instruction)
        if asked.entrypoint is not entrypoint and not any(
            text.strip().upper().startswith("CMD") for text in instructions
        ):
            asked.cmd = None
    if asked.stop_signal:
        signal_number(asked.stop_signal)
    asked.config()
    return asked


def _config(
    old: Mapping[str, Any], base: Image, asked: Changes, wishes: Wishes, created: str
) -> dict[str, Any]:
    """The image config of the new image, as JSON, without the new layer."""
    document = {member: copy.deepcopy(value) for member, value in old.items() if member not in _OF_ANOTHER}
    document["config"] = asked.onto(document.get("config") or {})
    document.setdefault("rootfs", {"type": "layers", "diff_ids": []})
    history = [entry for entry in document.get("history") or () if isinstance(entry, dict)]
    told = sum(not entry.get("empty_layer") for entry in history)
    # Readers count the layers by it, and not every image has one.
    history = [{"created_by": "unknown"}] * (len(base.layers) - told) + history
    step: dict[str, Any] = {"created_by": "gear commit"}
    if wishes.instructions:
        step["created_by"] += " " + " ".join(f"--change {text.strip()!r}" for text in wishes.instructions)
    if wishes.author:
        step["author"] = document["author"] = wishes.author
    if wishes.message:
        step["comment"] = wishes.message
    if _TIME.match(created):
        step["created"] = document["created"] = created
    document["history"] = [*history, step]
    return document


def _in_oci(layer: Descriptor) -> Descriptor:
    """The same blob with the media type that the OCI has for it, whatever Docker calls it."""
    how = LAYERS[layer.media_type]
    kinds = {compression: kind for kind, compression in LAYERS.items() if kind.startswith(OCI_LAYER)}
    return Descriptor(kinds[how], layer.digest, layer.size)
