"""What a container's file system is made of, to be read as one tree: its image's layers and what it has written.

Reading it is gear/merged.py's.  Volumes and binds are not part of it.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

from gear import bundle, composing, files, storage
from gear.errors import GearError
from gear.merged import Ids, Root
from gear.model import Layout
from gear.oci import Image
from gear.spec import Spec


def writable(layout: Layout, spec: Spec) -> Path:
    """The writable part of a container, which must be there; raises GearError."""
    path = bundle.writable_layer(spec, layout)
    if spec.ephemeral:
        raise GearError(
            f"{spec.name} keeps no files: what it writes is in memory and goes away with it.",
            hint="gear install without --ephemeral",
        )
    if not path.is_dir():
        raise GearError(
            f"{spec.name} has lost its writable layer {path}.",
            hint=f"gear apply {spec.name} makes a new one.",
        )
    return path


def below(layout: Layout, image: Image) -> list[Root]:
    """The image's layers, lowest first."""
    return [Root(path) for path in composing.roots(layout, image)]


def whole(layout: Layout, spec: Spec, image: Image) -> list[Root]:
    """The same with what the container has written, ids as it sees them."""
    part = writable(layout, spec)
    if not storage.driver(spec.storage).is_shifted:
        return [Root(part / "root")]
    ids = Ids(spec.uid_base, spec.id_count)
    return [*below(layout, image), Root(part / "upper", ids)]


def made_for_mounts(layout: Layout, name: str) -> frozenset[bytes]:
    """The places in the container's tree, as b"./etc/hosts", that a start may have made to mount something there."""
    document = files.read_json(layout.containers / name / "config.json")
    found: set[bytes] = set()
    for mount in document.get("mounts", ()) if isinstance(document, dict) else ():
        path = posixpath.normpath(str(mount.get("destination", "/")))
        while path not in ("/", "//", "."):
            found.add(b"." + path.encode(errors="surrogateescape"))
            path = posixpath.dirname(path)
    return frozenset(found)
