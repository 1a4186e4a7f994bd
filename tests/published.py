"""Images and containers as they are in the store and among the files, for unit tests: nothing runs."""

from __future__ import annotations

from typing import Any

from gear import composing, files, replacing, store, uids
from gear.document import digest_of
from gear.model import Layout
from gear.oci import OCI_CONFIG, OCI_MANIFEST, Descriptor, Image
from gear.outline import ImageRef
from gear.spec import Spec


def make_image(layout: Layout, reference: str = "img:latest", **config: Any) -> Image:
    """A whole image in the store, without layers."""
    documents = [
        files.dump_json(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": []},
            }
        )
    ]
    described = {"mediaType": OCI_CONFIG, "digest": digest_of(documents[0]), "size": len(documents[0])}
    documents.append(
        files.dump_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": []})
    )
    with store.lease(layout):
        for document in documents:
            files.write_atomic(store.blob_path(layout, digest_of(document)), document)
        manifest = Descriptor(OCI_MANIFEST, digest_of(documents[1]), len(documents[1]))
        return store.publish(layout, manifest, reference)


def make_container(layout: Layout, image: Image, name: str = "web", **fields: Any) -> Spec:
    """The files of a container, as install publishes them."""
    base = uids.allocate(layout, name, accounts=())
    spec = Spec(name=name, image=ImageRef(image.reference, image.digest), uid_base=base, **fields)
    layout.units.mkdir(parents=True, exist_ok=True)
    (layout.containers / name).mkdir(parents=True)
    replacing.replace(composing.compare(composing.render(spec, image, layout)))
    return spec
