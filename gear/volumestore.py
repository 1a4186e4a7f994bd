"""Named volumes on disk.  Everything of one is in a directory that appears whole and is removed as a whole:

    volumes/NAME/
        data/                   what containers see; ids are those inside.  On btrfs a subvolume.
        volume.json             what is noted of it (gear/volume_record.py); may be missing
        snapshots/LABEL/        snapshot.json and data/, a copy of it (gear/volume_copies.py)

Not who uses it (gear/volumes.py).  `data` is only ever replaced as a whole, by exchanging two directories in one step:
whoever is killed leaves the old one or the new one, and the other under a partial name.

Whoever reads a volume for long has a shared flock(2) on its directory, whoever changes it another one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gear import bundle, duplicate, files, quotas, records, removal, subvolumes
from gear.errors import GearError, NotFoundError
from gear.model import NAME, Layout
from gear.tree import DIRECTORY
from gear.volume_record import Record


def names(layout: Layout) -> list[str]:
    """All volumes, sorted."""
    with files.explained(f"read {layout.volumes}"):
        try:
            found = sorted(os.listdir(layout.volumes))
        except FileNotFoundError:
            return []
    # A disk of their own has e2fsck's directory at its top.
    return [name for name in found if not name.startswith(files.PARTIAL) and name != "lost+found"]


def require(layout: Layout, name: str) -> Path:
    """The directory of the volume *name*; raises NotFoundError."""
    path = layout.volumes / name
    if not path.is_dir():
        raise NotFoundError(
            f"There is no volume {name}.", hint="gear volume list shows those that there are."
        )
    return path


def record_path(directory: Path) -> Path:
    """Where the record of the volume in *directory* is."""
    return directory / "volume.json"


def record(layout: Layout, name: str) -> Record:
    """What is noted of the volume *name*; raises IntegrityError when that is damaged."""
    path = record_path(layout.volumes / name)
    document = files.read_json(path, limit=1 << 20)
    return Record() if document is None else Record.read(document, str(path))


def new_record(
    labels: Mapping[str, str] | None = None,
    size: int | None = None,
    *,
    anonymous: bool = False,
    seed: bool = False,
) -> Record:
    """The record of a volume that is made now."""
    return Record(time.time(), labels or {}, size, anonymous, seed)


def write_record(directory: Path, content: Record) -> None:
    """Replace the record of the volume in *directory*."""
    files.write_atomic(record_path(directory), files.dump_json(content.to_mapping()), 0o600)


@contextmanager
def held(layout: Layout, name: str, *, shared: bool = False) -> Iterator[Path]:
    """The directory of the volume *name*, which nobody changes meanwhile; raises NotFoundError, and GearError when
    somebody is at work with it."""
    path = require(layout, name)
    with files.explained(f"lock {path}"):
        descriptor = os.open(path, DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GearError(
                f"The volume {name} is being copied or changed by another command.",
                hint="Try again when that has ended.",
            ) from None
        yield path
    finally:
        os.close(descriptor)


@contextmanager
def making(layout: Layout, name: str, content: Record) -> Iterator[Path]:
    """The empty `data` of a volume that appears, durable, when the block has filled it.  The caller holds the lock.

    One that has lost its data keeps what else there is of it.
    """
    with appearing(layout, name, content) as (data, noted):
        new_data(data, noted.size, f"the volume {name}")
        yield data


def clone(layout: Layout, source: str, name: str, content: Record | None = None) -> None:
    """Make the volume *name* with the data of *source* and, unless there is *content*, with what is noted of that.

    Nothing may write to the source meanwhile; the caller holds the lock.
    """
    wanted = content or records.replace(record(layout, source), created=time.time())
    with appearing(layout, name, wanted) as (data, noted):
        copy_data(bundle.volume_directory(layout, source), data, noted.size, f"the volume {name}")


@contextmanager
def appearing(layout: Layout, name: str, content: Record) -> Iterator[tuple[Path, Record]]:
    """Where the block is to make `data` of a volume, and what is noted of it then."""
    target = layout.volumes / name
    # Layers of other users' programs: nobody but root gets near the set-user-ID files in a volume.
    files.make_directory(layout.volumes, 0o700)
    if os.path.lexists(target / "data"):
        raise GearError(f"There is a volume {name} already.", hint=f"gear volume inspect {name}")
    has_record = target.exists()
    if has_record:
        target, content = target / "data", record(layout, name)
    partial = files.partial_name(target)
    with files.explained(f"create the volume {name}"):
        try:
            if has_record:
                yield partial, content
            else:
                os.mkdir(partial, 0o755)
                write_record(partial, content)
                yield partial / "data", content
            files.sync_file_system(partial)
            os.rename(partial, target)
            files.sync_directory(target.parent)
        except BaseException:
            _discard(partial)
            raise


@contextmanager
def replacing(directory: Path, size: int | None, *, copy_of: Path | None = None) -> Iterator[Path]:
    """What takes the place of `data` of the volume in *directory* when the block has filled it: empty, or a copy.

    The caller holds the lock, and nothing that runs has the volume.
    """
    partial = files.partial_name(directory / "data")
    with files.explained(f"replace {directory / 'data'}"):
        try:
            if copy_of is None:
                new_data(partial, size, f"the volume {directory.name}")
            else:
                copy_data(copy_of, partial, size, f"the volume {directory.name}")
            yield partial
            files.sync_file_system(partial)
            files.exchange(partial, directory / "data")
            files.sync_directory(directory)
        except BaseException:
            _discard(partial)
            raise
        _discard(partial)


def new_data(path: Path, size: int | None, what: str) -> None:
    """Make the empty directory *path*, 0755 and root's, that may take *size* bytes: a subvolume on btrfs.  *what* it is
    goes into errors."""
    with files.explained(f"make {path}"):
        if subvolumes.file_system(path.parent) is not None:
            subvolumes.create(path)
        else:
            os.mkdir(path, 0o755)
        os.chmod(path, 0o755)
    if size is not None:
        quotas.limit(path, size, what)


def copy_data(source: Path, target: Path, size: int | None = None, what: str = "a copy") -> None:
    """Make *target*, which may take *size* bytes, a copy of *source*: what the file system can share is shared.

    Nothing may write to the source meanwhile, and nothing is made durable.
    """
    with files.explained(f"copy {source} to {target}"):
        if _is_subvolume(source) and subvolumes.file_system(target.parent) == subvolumes.file_system(source):
            if not subvolumes.has_nested(source):  # which a snapshot leaves out
                subvolumes.snapshot(source, target)
                if size is not None:
                    quotas.limit(target, size, what)
                return
    new_data(target, size, what)
    duplicate.copy_tree(source, target)


def _is_subvolume(path: Path) -> bool:
    descriptor = os.open(path, DIRECTORY)
    try:
        return subvolumes.file_system_of(descriptor) is not None and subvolumes.is_top(descriptor)
    finally:
        os.close(descriptor)


def has_nested(path: Path) -> bool:
    """Whether there are subvolumes in *path*, the data of a volume: whoever writes to it can make some on btrfs."""
    with files.explained(f"look for subvolumes in {path}"):
        return _is_subvolume(path) and subvolumes.has_nested(path)


def driver(layout: Layout, name: str) -> str:
    """How the data of a volume is kept: `subvolume` or `directory`."""
    with files.explained(f"look at the volume {name}"):
        return "subvolume" if _is_subvolume(bundle.volume_directory(layout, name)) else "directory"


def remove(layout: Layout, name: str) -> None:
    """Remove the volume *name* with its snapshots, if it is there.  The caller holds the lock.

    Raises GearError while somebody backs it up: what is in the archive must not be half of it.
    """
    if (layout.volumes / name).is_dir():
        with held(layout, name) as path:
            removal.remove_tree(path)


def is_empty(layout: Layout, name: str) -> bool:
    """Whether there is nothing in a volume."""
    directory = bundle.volume_directory(layout, name)
    with files.explained(f"read {directory}"):
        return not os.listdir(directory)


def seeds(layout: Layout, name: str) -> bool:
    """Whether the volume is to be filled from the image of the first container that has it."""
    return record(layout, name).seed and is_empty(layout, name)


def snapshots(layout: Layout, name: str) -> list[str]:
    """The labels of all snapshots of the volume *name*, sorted."""
    directory = layout.volumes / name / "snapshots"
    with files.explained(f"read {directory}"):
        try:
            return sorted(entry for entry in os.listdir(directory) if NAME.fullmatch(entry))
        except FileNotFoundError:
            return []


def directories(layout: Layout) -> list[Path]:
    """Where interrupted work of volumes may be: beside their data, and beside their snapshots."""
    return [
        place
        for name in names(layout)
        for place in (layout.volumes / name, layout.volumes / name / "snapshots")
    ]


def _discard(path: Path) -> None:
    if os.path.lexists(path):
        removal.remove_tree(path)
