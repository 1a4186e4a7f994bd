"""Images that the administrator looks at: their layers stacked read-only in a directory of the host.

Not the root of a container (gear/helper/rootfs.py), which never shows on the host.  There is no list of these mounts
but the kernel's own: both mounts that are made for an image have it in their source, so what /proc/PID/mountinfo
(proc_pid_mountinfo(5)) shows is the truth after a crash as well, and a reboot leaves nothing.

First comes a tiny tmpfs that is made private, so that nothing mounted in it reaches another mount namespace, and on
it the overlay.  The tmpfs also has the empty directory that overlayfs wants as a second one below a single layer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from gear import files
from gear.errors import GearError, NotFoundError, UsageError
from gear.helper import syscalls
from gear.model import Layout
from gear.patterns import pattern
from gear.records import dataclass

# Where images are mounted that no directory is given for; 0700, since set-user-ID programs are below.
DIRECTORY = Path("/run/gear/images")
_TAG = "gear-image"
_ESCAPE = pattern(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mounted:
    """An image on a directory; *whole* is false where only the first of both mounts is there."""

    digest: str
    directory: str
    whole: bool


def mounted(layout: Layout, tables: Sequence[str] = ("self", "1")) -> list[Mounted]:
    """The images of this store that are mounted here or where PID 1 is, sorted by directory."""
    found: dict[tuple[str, str], bool] = {}
    for table in tables:
        try:
            lines = Path(f"/proc/{table}/mountinfo").read_text(errors="surrogateescape").splitlines()
        except OSError:
            continue
        for line in lines:
            place, _, rest = line.partition(" - ")
            kind, source, *_ = rest.split(" ")
            prefix, _, digest = _plain(source).rpartition("@")
            if prefix == f"{_TAG}:{layout.images}":
                key = _plain(place.split(" ")[4]), digest
                found[key] = found.get(key, False) or kind == "overlay"
    return sorted(
        (Mounted(digest, directory, whole) for (directory, digest), whole in found.items()),
        key=lambda item: item.directory,
    )


def _plain(word: str) -> str:
    """A word of mountinfo, in which blanks and the like are octal."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)


def mount(layout: Layout, digest: str, roots: Sequence[Path], directory: str | None) -> str:
    """Mount the layers *roots*, lowest first, of the image *digest*; returns where.

    Without *directory* that is where the image is mounted already, or else a new directory.
    """
    if not roots:
        raise GearError(f"The image {digest} has no layers, so there is nothing to mount.")
    if directory is None:
        for item in mounted(layout, ("self",)):
            if item.digest == digest and item.whole:
                return item.directory
        files.make_directory(DIRECTORY, 0o700)
        made = DIRECTORY / f"{digest.partition(':')[2][:12]}-{os.urandom(3).hex()}"
        files.make_directory(made)
        place = str(made)
    else:
        place = os.path.realpath(directory)
        if not os.path.isdir(place):
            raise UsageError(f"{directory} is no directory.", hint=f"mkdir {directory}")
        if os.listdir(place):
            raise UsageError(f"{directory} is not empty, so no image is mounted there.")
    try:
        _mount(f"{_TAG}:{layout.images}@{digest}", roots, place)
    except OSError as error:
        _take_off(place, layout)
        if directory is None:
            with suppress(OSError):
                os.rmdir(place)
        raise GearError(
            f"Can't mount the image {digest} on {place}: {os.strerror(error.errno or 0)}."
        ) from error
    return place


def _mount(source: str, roots: Sequence[Path], place: str) -> None:
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount(source, place, "tmpfs", flags, "size=64k,nr_inodes=8,mode=700")
    syscalls.mount(None, place, None, syscalls.MS_PRIVATE)
    with ExitStack() as stack:
        lower = []
        os.mkdir(f"{place}/empty", 0o755)
        for path in (*reversed(roots), Path(place, "empty")):
            lower.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, lower[-1])
        # By descriptor, so that five hundred layers fit into mount(2)'s one page of options.
        option = "lowerdir=" + ":".join(f"/proc/self/fd/{descriptor}" for descriptor in lower)
        syscalls.mount(source, place, "overlay", flags | syscalls.MS_RDONLY, option)


def unmount(layout: Layout, wanted: str, digest: str | None) -> list[str]:
    """Unmount what is on the directory *wanted*, or each mount of the image *digest*; returns the directories."""
    place = os.path.realpath(wanted)
    here = mounted(layout, ("self",))
    found = [item for item in here if item.directory == place] or [
        item for item in here if digest is not None and item.digest == digest
    ]
    if not found:
        raise NotFoundError(
            f"No image is mounted on {wanted}, and none that is called so is mounted anywhere.",
            hint="gear image mount shows what is mounted.",
        )
    for item in found:
        _take_off(item.directory, layout)
        if Path(item.directory).parent == DIRECTORY:
            with suppress(OSError):
                os.rmdir(item.directory)
    with suppress(OSError):  # others are mounted
        os.rmdir(DIRECTORY)
    return [item.directory for item in found]


def _take_off(place: str, layout: Layout) -> None:
    """Unmount all that gear has mounted on *place*."""
    while any(item.directory == place for item in mounted(layout, ("self",))):
        try:
            syscalls.umount(place, 0)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise GearError(
                    f"{place} is in use, so it stays mounted.", hint=f"fuser -vm {place} shows who uses it."
                ) from error
            raise files.explain(error, f"unmount {place}") from error
