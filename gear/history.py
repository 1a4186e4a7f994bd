"""How an image came to be: the steps that its config tells of, beside the layers that it has.

What a config says is told as it says it and proves nothing; sizes are those of the layers in the store.
"""

from __future__ import annotations

from typing import Any

from gear import store, unpacked
from gear.document import Node
from gear.model import Layout
from gear.oci import Descriptor, Manifest
from gear.records import dataclass


@dataclass(frozen=True)
class Step:
    """One step; those that made no layer have neither digest nor diff id, and no size."""

    created: str
    created_by: str
    comment: str
    size: int
    digest: str
    diff_id: str

    def document(self) -> dict[str, Any]:
        return {
            "created": self.created,
            "created_by": self.created_by,
            "comment": self.comment,
            "size": self.size,
            "digest": self.digest,
            "diffId": self.diff_id,
        }


def history(layout: Layout, name: str) -> list[Step]:
    """The steps of the image *name*, the latest first.

    Layers that the config tells nothing of come as steps without words.
    """
    with store.lease(layout):
        image = store.resolve(layout, name)
        _, node = store.read_document(layout, image.digest, "the manifest")
        manifest = Manifest.from_node(node)
        _, node = store.read_document(layout, manifest.config.digest, "the image config")
        layers = list(zip(manifest.layers, image.layers, strict=True))
        sizes = {diff_id: (unpacked.facts(layout, diff_id) or (0, 0))[0] for diff_id in image.layers}
    steps = []
    for entry in node.nodes("history"):
        empty = entry.value.get("empty_layer")
        if empty not in (None, True, False):
            entry.fail("empty_layer", "is neither true nor false")
        if empty or not layers:
            steps.append(_step(entry, None, sizes))
        else:
            steps.append(_step(entry, layers.pop(0), sizes))
    nothing = Node({}, node.what)
    steps += [_step(nothing, layer, sizes) for layer in layers]
    return steps[::-1]


def _step(entry: Node, layer: tuple[Descriptor, str] | None, sizes: dict[str, int]) -> Step:
    words = entry.text("created"), entry.text("created_by"), entry.text("comment")
    if layer is None:
        return Step(*words, 0, "", "")
    blob, diff_id = layer
    return Step(*words, sizes[diff_id], blob.digest, diff_id)
