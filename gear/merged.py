"""Stacked directories seen as the one tree that overlayfs makes of them, while somebody may be writing to it.

Reading only.  What is written of such a tree is in gear/pack.py, how two of them differ in gear/changed.py.  The
content is hostile: no path is handed to the kernel, nothing is opened whose type was not looked at, and what
disappears or changes its kind meanwhile counts as not there.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gear.errors import GearError
from gear.files import explained
from gear.layer import Bounds, kept
from gear.records import dataclass, field
from gear.tree import DIRECTORY, OPAQUE, is_whiteout

# What an id becomes that the container has not: what the kernel shows for it, user_namespaces(7).
NOBODY = 65534
# What the kernel answers when a name is gone, or has become something else, since it was looked at.
VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO)
# Of POSIX ACLs (linux/posix_acl_xattr.h): version, then tag, permissions and id of each entry.
_ACL_HEADER, _ACL_ENTRY, _ACL_NAMED = struct.Struct("<I"), struct.Struct("<HHI"), (0x02, 0x08)
# Of file capabilities (linux/capability.h): version and flags, two pairs of masks, and in version 3 the id of root.
_CAPABILITY, _VERSION_2, _VERSION_3 = struct.Struct("<IIIII"), 0x02000000, 0x03000000
_VERSION = 0xFF000000


@dataclass(frozen=True)
class Ids:
    """Whose ids a directory tree has on disk: *base* there is 0 in the container, which has *size* of them."""

    base: int = 0
    size: int = 1 << 32

    def inside(self, number: int) -> int:
        """The id as the container sees it."""
        return number - self.base if 0 <= number - self.base < self.size else NOBODY

    def attribute(self, name: str, value: bytes) -> bytes:
        """An extended attribute as the container sees it, with the ids that are in it."""
        if not self.base:
            return value
        if name.startswith("system.posix_acl_") and len(value) % _ACL_ENTRY.size == _ACL_HEADER.size:
            entries = [
                _ACL_ENTRY.pack(tag, rights, self.inside(who) if tag in _ACL_NAMED else who)
                for tag, rights, who in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :])
            ]
            return value[: _ACL_HEADER.size] + b"".join(entries)
        if name == "security.capability" and len(value) == _CAPABILITY.size + 4:
            first, *masks = _CAPABILITY.unpack(value[:-4])
            if first & _VERSION == _VERSION_3 and struct.unpack("<I", value[-4:]) == (self.base,):
                # Those of the container's own root are what version 2 means there.
                return _CAPABILITY.pack(first & ~_VERSION | _VERSION_2, *masks)
        return value


SAME = Ids()


@dataclass(frozen=True)
class Root:
    """One directory of a stack."""

    path: Path
    ids: Ids = SAME
    # Whether it is no layer: what would be a whiteout is a device like others, and overlayfs's attributes are kept.
    literal: bool = False


@dataclass(frozen=True)
class Opened:
    """A directory of one layer."""

    descriptor: int
    ids: Ids
    literal: bool = False


@dataclass(frozen=True)
class Node:
    """What a name means in the merged tree: its status, and where it is read.

    A directory has the *layers* that are merged to it, highest first.  Anything else is called *name* in *parent*.
    Owners in *status* are those on disk.
    """

    status: os.stat_result
    layers: tuple[Opened, ...] = ()
    parent: int = -1
    name: bytes = b""
    ids: Ids = SAME
    literal: bool = False

    @property
    def is_directory(self) -> bool:
        return bool(self.layers)

    @property
    def file(self) -> tuple[int, int]:
        """What two names of one file have in common."""
        return self.status.st_dev, self.status.st_ino

    @property
    def owner(self) -> tuple[int, int]:
        """User and group as the container sees them."""
        return self.ids.inside(self.status.st_uid), self.ids.inside(self.status.st_gid)

    def target(self) -> bytes:
        """Where a symbolic link leads; raises OSError, and ENXIO when it is something else by now."""
        try:
            return os.readlink(self.name, dir_fd=self.parent)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO)) from error

    def open(self) -> int:
        """A regular file, for reading; raises OSError, and ENXIO when it is another or none any more."""
        place = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.parent)
        try:
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(place)

    def attributes(self) -> Mapping[str, bytes]:
        """The extended attributes that an image may have, as the container sees them."""
        if self.layers:
            return attributes(self.layers[0].descriptor, self.ids, self.literal)
        if stat.S_ISLNK(self.status.st_mode):
            return {}  # xattr(7): of those that are kept, a link can have none
        place = b"/proc/self/fd/%d/%s" % (self.parent, self.name)
        return attributes(place, self.ids, self.literal)


def attributes(place: int | bytes, ids: Ids, literal: bool = False) -> dict[str, bytes]:
    """The extended attributes of a file, sorted; those of overlayfs, unless *literal*, and of the host are left out."""
    follow = isinstance(place, int)  # which a descriptor has to be told, though there is nothing to follow
    found = {}
    try:
        named = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    for name in sorted(name for name in named if kept(name, layer=not literal)):
        if "=" in name:  # no record of a tar archive can say so
            continue
        try:
            found[name] = ids.attribute(name, os.getxattr(place, name, follow_symlinks=follow))
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
    return found


@contextmanager
def opened(roots: Sequence[Root]) -> Iterator[Node]:
    """The merged root directory of *roots*, lowest first."""
    _allow_descriptors()
    with ExitStack() as stack, explained(f"read {roots[-1].path if roots else 'no directory'}"):
        layers: list[Opened] = []
        for root in reversed(roots):
            layers.append(Opened(os.open(root.path, DIRECTORY), root.ids, root.literal))
            stack.callback(os.close, layers[-1].descriptor)
            if is_opaque(layers[-1].descriptor):
                break
        first = layers[0]
        yield Node(os.fstat(first.descriptor), tuple(layers), ids=first.ids, literal=first.literal)


def _allow_descriptors() -> None:
    """Let this process have as many files open as it may: one for each layer and each directory on the way down."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def names(directory: Node) -> list[bytes]:
    """What may be in a merged directory, sorted; whiteouts are among them."""
    found: set[bytes] = set()
    for layer in directory.layers:
        found.update(map(os.fsencode, os.listdir(layer.descriptor)))
    return sorted(found)


@contextmanager
def looked_up(directory: Node, name: bytes) -> Iterator[Node | None]:
    """*name* in a merged directory, by overlayfs's rules; None when there is no such thing."""
    with ExitStack() as stack:
        yield _look(directory, name, stack)


def _look(directory: Node, name: bytes, stack: ExitStack) -> Node | None:
    below: list[Opened] = []
    for layer in directory.layers:
        try:
            status = os.lstat(name, dir_fd=layer.descriptor)
            if is_whiteout(status) and not layer.literal:
                break
            if not stat.S_ISDIR(status.st_mode):
                if below:
                    break
                return Node(status, (), layer.descriptor, name, layer.ids, layer.literal)
            descriptor = os.open(name, DIRECTORY, dir_fd=layer.descriptor)
        except OSError as error:
            if error.errno not in VANISHED:
                raise
            continue
        stack.callback(os.close, descriptor)
        below.append(Opened(descriptor, layer.ids, layer.literal))
        if is_opaque(descriptor):
            break
    if not below:
        return None
    first = below[0]
    return Node(os.fstat(first.descriptor), tuple(below), ids=first.ids, literal=first.literal)


def is_opaque(directory: int) -> bool:
    """Whether lower layers are hidden below this directory."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return False


@dataclass
class Bound:
    """Refuses what no image may have: a tree that is deeper, or whose names are longer, than gear unpacks."""

    what: str
    limits: Bounds = field(default_factory=Bounds)

    def check(self, path: bytes) -> None:
        """Raise GearError when *path*, from the root, goes too far."""
        if path.count(b"/") > self.limits.depth or len(path) > self.limits.path:
            shown = ascii(path[:80].decode("utf-8", "backslashreplace"))
            raise GearError(
                f"{self.what} has directories that are nested too deep, at {shown}...: "
                f"more than {self.limits.depth}, or a path of more than {self.limits.path} bytes."
            )
