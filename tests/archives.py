"""Archives and images made by hand; the writer is tarfile, so gear's parser meets another's work."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gear import store
from gear.model import Layout
from gear.oci import Image

EPOCH = 1_400_000_000


def entry(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member: a file unless *fields* has another `type`; owned by whoever runs the tests."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.uid, info.gid = len(data), EPOCH, os.geteuid(), os.getegid()
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(*layers: bytes, **members: Any) -> dict[str, Any]:
    """An image config for uncompressed *layers*; *members* go to its member `config`."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": members,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }


class OciLayout:
    """An OCI layout under construction; `files` is what it consists of."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.entries: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Add a blob; returns its descriptor."""
        self.files[f"blobs/{digest(data).replace(':', '/')}"] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def image(
        self,
        *layers: bytes,
        name: str | None = None,
        layer_type: str = "application/vnd.oci.image.layer.v1.tar",
        document: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Add an image; returns the descriptor of its manifest, which is also put into the index."""
        content = json.dumps(config(*layers, Cmd=["/bin/true"]) if document is None else document).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(content, "application/vnd.oci.image.config.v1+json"),
            "layers": [self.blob(layer, layer_type) for layer in layers],
        }
        result = self.blob(
            json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json", **more
        )
        if name is not None:
            result["annotations"] = {"org.opencontainers.image.ref.name": name}
        self.entries.append(result)
        return result

    def finish(self) -> dict[str, bytes]:
        """All files, with the index."""
        index = {"schemaVersion": 2, "manifests": self.entries}
        return {**self.files, "index.json": json.dumps(index).encode()}

    def write(self, path: Path) -> Path:
        """Write it as a directory."""
        for name, data in self.finish().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def archive(self) -> bytes:
        """The same as a tar archive."""
        return tar(*(entry(name, data) for name, data in self.finish().items()))


def snapshot(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below *path*: mode, size or device, and content or target."""
    result = {}
    for top, names, others in os.walk(path):
        for name in [*names, *others]:
            full = Path(top) / name
            status = full.lstat()
            content = b""
            if full.is_symlink():
                content = os.fsencode(os.readlink(full))
            elif full.is_file():
                content = full.read_bytes()
            result[str(full.relative_to(path))] = (status.st_mode, status.st_rdev, content)
    return result


def stored(layout: Layout) -> list[Image]:
    """Every image of the store: once for each of its references, or with its digest as reference when it has none."""
    known = store.references(layout)
    nameless = [digest for digest in store.held(layout) if digest not in known.values()]
    return [store.image(layout, digest, name) for name, digest in known.items()] + [
        store.image(layout, digest, digest) for digest in nameless
    ]
