"""How a container's root is made of its image's layers: storage drivers behind one small interface.

Not the start, which does the mounting (gear/helper/rootfs.py), nor what an image is (gear/store.py).  The writable
part of a container is one directory below its own, named by gear/bundle.py; whatever makes it, it is whole as soon
as it can be seen by that name.  It holds set-user-ID programs, and is below directories that are root's alone.

/etc/gear/storage.yaml says what containers get that don't ask for a driver:

    driver: btrfs
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from gear import bundle, duplicate, files, removal, store, subvolumes, yamlfile
from gear.errors import GearError, HostError, UsageError
from gear.model import Layout
from gear.spec import STORAGE_DRIVERS, Spec, storage_driver
from gear.view import View


class Driver(Protocol):
    """One way to make a container's root."""

    @property
    def name(self) -> str:
        """What the option and the specification call it."""

    @property
    def is_shifted(self) -> bool:
        """Whether files of the writable part have ids of the container's range; else they have the image's own."""

    def require(self, layout: Layout) -> None:
        """Raise GearError when the file system that the containers are on can't."""

    def make(self, layout: Layout, spec: Spec, layers: Sequence[Path]) -> None:
        """The writable part of *spec*, made of the image's *layers*, lowest first; one that is there stays.

        The caller holds the lock, and a lease of the store.
        """

    def snapshot(self, source: Path, target: Path, *, shift: int = 0) -> None:
        """Copy the writable part *source* to *target*, which must not exist, durably.

        *shift* is added to all ids where `is_shifted`, and is 0 elsewhere.  Nothing may write to the source
        meanwhile.  Raises GearError.
        """

    def remove(self, path: Path) -> None:
        """Remove a writable part, if it is there."""


@contextmanager
def _whole(target: Path, doing: str) -> Iterator[Path]:
    """A new directory, 0700, that becomes *target* when the block has filled it and made it durable."""
    partial = files.partial_name(target)
    with files.explained(doing):
        try:
            os.mkdir(partial, 0o700)
            yield partial
            os.rename(partial, target)
        except BaseException:
            with suppress(GearError):
                removal.remove_tree(partial)
            raise


class Overlay:
    """Overlayfs: `upper` has what differs from the image's layers, which all containers share."""

    name = "overlay"
    is_shifted = True

    def require(self, layout: Layout) -> None:
        """Every file system that gear runs on can."""

    def make(self, layout: Layout, spec: Spec, layers: Sequence[Path]) -> None:
        """See Driver."""
        target = bundle.writable_layer(spec, layout)
        if target.exists():
            return
        with _whole(target, f"create the writable layer {target}") as partial:
            upper = _upper_and_work(partial)
            # The upper directory is what the container sees as `/`, so it looks as the image's root does.
            top = (layers[-1] if layers else upper).stat()
            os.chown(upper, spec.uid_base + top.st_uid, spec.uid_base + top.st_gid)
            os.chmod(upper, top.st_mode & 0o7777)
            for made in (upper, partial):
                files.sync_directory(made)

    def snapshot(self, source: Path, target: Path, *, shift: int = 0) -> None:
        """See Driver.  `work` is overlayfs's scratch space, and starts empty."""
        with _whole(target, f"copy {source} to {target}") as partial:
            duplicate.copy_tree(source / "upper", _upper_and_work(partial), shift=shift)
            files.sync_file_system(partial)
        files.sync_directory(target.parent)

    def remove(self, path: Path) -> None:
        """See Driver."""
        removal.remove_tree(path)


def _upper_and_work(directory: Path) -> Path:
    """The two directories that overlayfs wants on one file system; returns the upper one."""
    (directory / "work").mkdir(mode=0o700)
    (directory / "upper").mkdir()
    return directory / "upper"


class Copies:
    """A full copy of the image's tree in `root`, for file systems that overlayfs can't have its upper directory on,
    and for programs that it doesn't suit.  Content is shared with the image where the file system can."""

    name = "vfs"
    is_shifted = False

    def require(self, layout: Layout) -> None:
        """Every file system can."""

    def make(self, layout: Layout, spec: Spec, layers: Sequence[Path]) -> None:
        """See Driver."""
        target = bundle.writable_layer(spec, layout)
        if target.exists():
            return
        with _whole(target, f"copy the image {spec.image.reference} to {target}") as partial:
            (partial / "root").mkdir()
            View(layers).copy_tree("/", partial / "root")
            files.sync_file_system(partial)

    def snapshot(self, source: Path, target: Path, *, shift: int = 0) -> None:
        """See Driver."""
        _require_unshifted(shift)
        with _whole(target, f"copy {source} to {target}") as partial:
            (partial / "root").mkdir()
            duplicate.copy_tree(source / "root", partial / "root")
            files.sync_file_system(partial)
        files.sync_directory(target.parent)

    def remove(self, path: Path) -> None:
        """See Driver."""
        removal.remove_tree(path)


class Subvolumes:
    """Subvolumes of btrfs: the store has a read-only one for each image, and `root` is a snapshot of it."""

    name = "btrfs"
    is_shifted = False

    def require(self, layout: Layout) -> None:
        """Both the images and the containers have to be on one btrfs; raises HostError."""
        found = [_file_system(path) for path in (layout.containers, layout.images)]
        hint = "Use --storage-driver overlay or vfs."
        if None in found:
            raise HostError(
                f"The storage driver btrfs needs {layout.state} on a btrfs file system.", hint=hint
            )
        if found[0] != found[1]:
            raise HostError(
                f"The storage driver btrfs needs {layout.containers} and {layout.images} on one file system.",
                hint=hint,
            )

    def make(self, layout: Layout, spec: Spec, layers: Sequence[Path]) -> None:
        """See Driver."""
        target = bundle.writable_layer(spec, layout)
        if target.exists():
            return
        tree = _image_subvolume(layout, spec.image.digest, layers)
        with _whole(target, f"create the writable layer {target}") as partial:
            subvolumes.snapshot(tree, partial / "root")
            files.sync_directory(partial)

    def snapshot(self, source: Path, target: Path, *, shift: int = 0) -> None:
        """See Driver."""
        _require_unshifted(shift)
        with _whole(target, f"copy {source} to {target}") as partial:
            if subvolumes.has_nested(source / "root"):
                # The container has made some of its own, which a snapshot leaves out.
                subvolumes.create(partial / "root")
                duplicate.copy_tree(source / "root", partial / "root")
            else:
                subvolumes.snapshot(source / "root", partial / "root")
            files.sync_file_system(partial)
        files.sync_directory(target.parent)

    def remove(self, path: Path) -> None:
        """See Driver."""
        removal.remove_tree(path)


def _require_unshifted(shift: int) -> None:
    if shift:
        raise ValueError("trees have the ids of their image, which are the same in every container")


def _file_system(path: Path) -> bytes | None:
    """The UUID of the btrfs that *path* is on, or will be when it is made."""
    with files.explained(f"look at the file system of {path}"):
        while not path.exists():
            path = path.parent
        return subvolumes.file_system(path)


def _image_subvolume(layout: Layout, digest: str, layers: Sequence[Path]) -> Path:
    """The read-only subvolume of the image *digest*, made now if need be.  It goes when the image does
    (gear/garbage.py)."""
    tree = store.place(layout, "subvolumes", digest)
    if not tree.exists():
        files.make_directory(tree.parent)
        partial = files.partial_name(tree)
        with files.explained(f"create the subvolume {tree}"):
            try:
                subvolumes.create(partial)
                View(layers).copy_tree("/", partial)
                files.sync_file_system(partial)
                subvolumes.seal(partial)
                os.rename(partial, tree)
            except BaseException:
                with suppress(GearError):
                    removal.remove_tree(partial)
                raise
            files.sync_directory(tree.parent)
    return tree


_DRIVERS: tuple[Driver, ...] = (Overlay(), Subvolumes(), Copies())


def driver(name: str) -> Driver:
    """The driver called *name*, one of STORAGE_DRIVERS."""
    return next(made for made in _DRIVERS if made.name == name)


def configured(layout: Layout) -> str:
    """The driver for containers that don't ask for one; raises UsageError for a file that is wrong."""
    path = layout.config / "storage.yaml"
    data = files.read_bytes(path, yamlfile.LIMIT)
    document = None if data is None else yamlfile.parse(data, str(path))
    if document is None:
        return STORAGE_DRIVERS[0]
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a mapping.")
    if unknown := sorted(set(document) - {"driver"}):
        raise UsageError(f"{path} has an unknown member {unknown[0]!r}.", hint="Known is driver.")
    try:
        return storage_driver(document.get("driver"))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from None
