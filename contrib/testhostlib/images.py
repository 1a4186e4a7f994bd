"""Root file systems to make container images of: a tar of a small Debian tree with one service in it."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from . import needs, recipe, trees
from .errors import UsageError
from .places import Places

PACKAGES = {
    "nginx": ("nginx-light",),
    "redis": ("redis-server",),
    "postgresql": ("postgresql",),
    "python": ("python3",),
}
NAMES = (*PACKAGES, "busybox")
IMAGE_MIB = 1024

BUSYBOX_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
}
BUSYBOX_DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755, "sys": 0o755,
    "tmp": 0o1777, "var": 0o755, "var/www": 0o755,
}  # fmt: skip


def image_path(places: Places, name: str, release: str) -> Path:
    if name not in NAMES:
        raise UsageError(f"no such image: {name!r}", hint=f"known images: {', '.join(NAMES)}")
    if name in PACKAGES:
        parts: tuple[object, ...] = (PACKAGES[name], recipe.EXCLUDED)
    else:
        parts = (recipe.tree_key(release), BUSYBOX_FILES, BUSYBOX_DIRECTORIES)
    return places.images / f"{name}-{release}-{recipe.key(name, release, *parts)}.tar"


def build_image(name: str, *, release: str = "bookworm", places: Places | None = None) -> Path:
    """The cached tar, made now when it is not there."""
    places = places or Places.default()
    recipe.check_release(release)
    path = image_path(places, name, release)
    if path.exists():
        return path
    needs.root()
    needs.programs("mmdebstrap", "setpriv", "unshare")
    places.make()
    if name == "busybox":
        tree = trees.build_tree(release, places=places)
        program = (tree / "usr/bin/busybox").read_bytes()
        applets = trees.output(
            ["chroot", os.fspath(tree), "/usr/bin/busybox", "--list"], "list busybox's applets"
        )
        return trees.build_once(
            places, path, 8, lambda staging, held: busybox(staging, program, applets.decode().split())
        )
    return trees.build_once(
        places, path, IMAGE_MIB, lambda staging, held: trees.bootstrap(release, PACKAGES[name], staging, held)
    )


def busybox(target: Path, program: bytes, applets: list[str]) -> None:
    """Write the tar: the program, a link for each of its applets, and the files nothing works without."""
    with tarfile.open(target, "w") as tar:
        for name, mode in BUSYBOX_DIRECTORIES.items():
            tar.addfile(member(name, tarfile.DIRTYPE, mode))
        for name, text in BUSYBOX_FILES.items():
            add(tar, name, text.encode(), 0o644)
        add(tar, "bin/busybox", program, 0o755)
        for applet in applets:
            if applet != "busybox":
                link = member(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
                link.linkname = "busybox"
                tar.addfile(link)


def member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, mode
    return info


def add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = member(name, tarfile.REGTYPE, mode)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
