"""How a container's root is made of its image's layers: storage drivers behind one small interface.

Not the start, which does the mounting (gear/helper/rootfs.py), nor what an image is (gear/store.py).  The writable
part of a container is one directory below its own, named by gear/bundle.py; whatever makes it, it is whole as soon
as it can be seen by that name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gear import bundle, duplicate, files
from gear.errors import UsageError
from gear.model import Layout
from gear.spec import Spec


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
        partial = files.partial_name(target)
        with files.explained(f"create the writable layer {target}"):
            try:
                (partial / "work").mkdir(parents=True, mode=0o700)
                upper = partial / "upper"
                upper.mkdir()
                # The upper directory is what the container sees as `/`, so it looks as the image's root does.
                top = layers[-1].stat() if layers else partial.stat()
                os.chown(upper, spec.uid_base + top.st_uid, spec.uid_base + top.st_gid)
                os.chmod(upper, top.st_mode & 0o7777)
                for made in (upper, partial):
                    files.sync_directory(made)
                os.rename(partial, target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise

    def snapshot(self, source: Path, target: Path, *, shift: int = 0) -> None:
        """See Driver.  `work` is overlayfs's scratch space, and starts empty."""
        partial = files.partial_name(target)
        with files.explained(f"copy {source} to {target}"):
            try:
                (partial / "work").mkdir(parents=True, mode=0o700)
                (partial / "upper").mkdir()
                duplicate.copy_tree(source / "upper", partial / "upper", shift=shift)
                files.sync_file_system(partial)
                os.rename(partial, target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            files.sync_directory(target.parent)

    def remove(self, path: Path) -> None:
        """See Driver."""
        files.remove_tree(path)


def driver(name: str) -> Driver:
    """The driver called *name*; raises UsageError."""
    drivers: dict[str, Driver] = {made.name: made for made in (Overlay(),)}
    if name not in drivers:
        raise UsageError(
            f"There is no storage driver {name[:40]!r}.", hint=f"Drivers are {', '.join(drivers)}."
        )
    return drivers[name]
