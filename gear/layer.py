"""Unpack one image layer into a directory, as overlayfs(5) wants it.

Not where layers are kept (gear/store.py) nor how tar is parsed (gear/tarstream.py).

A layer is hostile: `..`, symlinks that are written through, hard links, whiteouts and repeated entries all
try to reach a file outside.  No path of an archive is ever handed to the kernel as a path.  Every component
is opened by itself with O_NOFOLLOW below the descriptor of its parent, symlinks are followed by gear inside
the root only, and what can't be meant well is refused with the name of the entry.

What is kept: type, content, mode with setuid, owner, times, hard links, sparseness, and the extended
attributes in KEPT and of users.  A whiteout `.wh.NAME` becomes a character device 0:0 called NAME, and
`.wh..wh..opq` becomes the attribute trusted.overlay.opaque of its directory (kernel:
Documentation/filesystems/overlayfs.rst).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gear.compression import RATIO, RATIO_FLOOR, Source, decompressed, kind_of
from gear.errors import HostError, IntegrityError
from gear.files import explain, write_all
from gear.oci import LAYERS
from gear.records import dataclass
from gear.tree import DIRECTORY, OPAQUE, Tree, is_whiteout

# Others that deal with layers come by this module and read no archive.
if TYPE_CHECKING:
    from gear.tarstream import Archive, Entry

WHITEOUT = b".wh."
# What the kernel says of an entry that contradicts itself or an earlier one.
IMPOSSIBLE = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EMLINK, errno.EFBIG, errno.EEXIST)
# Others would steer overlayfs (trusted.overlay.*, user.overlay.*) or belong to the host (security.selinux).
KEPT = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")


@dataclass(frozen=True)
class Bounds:
    """What a single layer may be; beyond any of these it is refused."""

    # Of the unpacked archive, and of any one file even if it is sparse.
    size: int = 64 << 30
    entries: int = 2_000_000
    # Components of a path, and its bytes (PATH_MAX).
    depth: int = 256
    path: int = 4096
    # Growth by decompression, looked at only beyond this many bytes.
    ratio: int = RATIO
    ratio_floor: int = RATIO_FLOOR
    # Symlinks followed to find one parent directory, as many as Linux follows.
    symlinks: int = 40


@dataclass(frozen=True)
class Unpacked:
    """What extract() found: the digest of the uncompressed archive, its entries, the bytes of its files."""

    diff_id: str
    entries: int
    size: int


def extract(
    file: Source,
    destination: Path,
    what: str,
    *,
    media_type: str | None = None,
    bounds: Bounds = Bounds(),  # noqa: B008 (frozen)
    owners: bool = True,
    algorithm: str = "sha256",
    is_layer: bool = True,
) -> Unpacked:
    """Unpack the layer in *file* into the empty directory *destination*.

    The file is at its beginning, and its first six bytes are there.

    *what* names the layer in errors.  *owners* False leaves everything to the caller's own user, for a
    caller without privilege; *algorithm* is that of the diff id.  Without *is_layer* it is an archive like any other,
    in which no name is a whiteout, and which may be compressed in any way.  On failure the destination is left
    half-filled: it is the caller's to remove.
    Raises IntegrityError for what the layer does wrong, HostError for a missing privilege.
    """
    head = os.pread(file.fileno(), 6, 0)
    kind = kind_of(head)
    if media_type is not None and LAYERS.get(media_type) != kind:
        raise IntegrityError(f"{what} is announced as {media_type}, but what it holds is {kind}.")
    if is_layer and kind not in LAYERS.values():
        raise IntegrityError(f"{what} is compressed with {kind}, which the format of images does not allow.")
    with decompressed(file, what, kind, floor=bounds.ratio_floor, ratio=bounds.ratio) as stream:
        from gear.tarstream import Archive

        archive = Archive(stream, what, limit=bounds.size, algorithm=algorithm)
        root = os.open(destination, DIRECTORY)
        try:
            tree = Tree(root, symlinks=bounds.symlinks, depth=bounds.depth)
            try:
                extraction = _Extraction(tree, archive, what, bounds, owners, is_layer)
                extraction.run()
            finally:
                tree.close()
        finally:
            os.close(root)
        archive.drain()
    return Unpacked(archive.digest(), extraction.entries, extraction.size)


class _Extraction:
    """One run over an archive.  Descriptors it opens are closed by the method that opened them."""

    def __init__(
        self, tree: Tree, archive: Archive, what: str, bounds: Bounds, owners: bool, is_layer: bool
    ) -> None:
        self._tree, self._archive, self._what = tree, archive, what
        self._bounds, self._owners, self._is_layer = bounds, owners, is_layer
        self.entries = 0
        self.size = 0
        # Directory times come last: every file made in a directory changes them.
        self._times: dict[tuple[bytes, ...], int] = {}

    def run(self) -> None:
        """Unpack everything."""
        for entry in self._archive:
            self.entries += 1
            if self.entries > self._bounds.entries:
                raise self._refuse(f"has more than {self._bounds.entries} entries")
            with self._naming(entry):
                self._place(entry)
        for path, mtime_ns in self._times.items():
            with suppress(OSError):  # a later entry replaced the directory
                descriptor = self._tree.existing(path)
                try:
                    os.utime(descriptor, ns=(mtime_ns, mtime_ns))
                finally:
                    os.close(descriptor)

    def _refuse(self, problem: str) -> IntegrityError:
        return IntegrityError(f"{self._what} {problem}.")

    @contextmanager
    def _naming(self, entry: Entry) -> Iterator[None]:
        """Errors of the kernel as sentences about *entry*."""
        try:
            yield
        except (OverflowError, ValueError) as error:
            raise self._refuse(
                f"has an entry {entry.shown()} with a number that can't be: {error}"
            ) from error
        except OSError as error:
            doing = f"unpack {entry.shown()} of {self._what[:1].lower()}{self._what[1:]}"
            if error.errno in IMPOSSIBLE:
                raise self._refuse(
                    f"has an entry {entry.shown()} that can't be made: {error.strerror}"
                ) from error
            if error.errno == errno.ENOTSUP:
                raise HostError(
                    f"Can't {doing}: the file system keeps no such extended attributes."
                ) from error
            raise explain(error, doing) from error

    def _components(self, name: bytes, entry: Entry) -> list[bytes]:
        """The components of a name of the archive, which is taken from the layer's root as by Docker."""
        if b"\0" in name or len(name) > self._bounds.path:
            raise self._refuse(f"has an entry {entry.shown()} whose name has a NUL or is too long")
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise self._refuse(f"has an entry {entry.shown()} with '..' in its name")
        if len(parts) > self._bounds.depth:
            raise self._refuse(f"has an entry {entry.shown()} deeper than {self._bounds.depth} directories")
        if any(len(part) > 255 for part in parts):
            raise self._refuse(f"has an entry {entry.shown()} with a component of more than 255 bytes")
        return parts

    def _place(self, entry: Entry) -> None:
        """Unpack one entry."""
        parts = self._components(entry.name, entry)
        if self._is_layer and self._is_of_aufs(entry, parts):
            return
        if entry.kind == "directory":
            self._directory(entry, parts)
            return
        if not parts:
            raise self._refuse(
                f"has an entry {entry.shown()} that replaces the root directory by a {entry.kind}"
            )
        name = parts[-1]
        with self._tree.made(parts[:-1]) as parent:
            if self._is_layer and name.startswith(WHITEOUT):
                self._whiteout(entry, parent, name)
                return
            if entry.kind == "hard link":
                self._hard_link(entry, parent, name)
                return
            self._tree.clear(parent, name)
            if entry.kind == "file":
                self._file(entry, parent, name)
                return
            self._special(entry, parent, name)

    def _is_of_aufs(self, entry: Entry, parts: list[bytes]) -> bool:
        """Whether *entry* means nothing in a layer; raises IntegrityError when it makes a directory of a whiteout."""
        directories = parts if entry.kind == "directory" else parts[:-1]
        if any(part.startswith(b".wh..wh.") for part in directories):
            return True  # AUFS kept its hard links in .wh..wh.plnk
        if any(part.startswith(WHITEOUT) for part in parts[:-1]):
            raise self._refuse(f"has an entry {entry.shown()} below a whiteout")
        if entry.kind == "directory" and parts and parts[-1].startswith(WHITEOUT):
            raise self._refuse(f"has a directory {entry.shown()} that is named like a whiteout")
        return False

    def _directory(self, entry: Entry, parts: list[bytes]) -> None:
        """Make a directory, or give an existing one the entry's attributes."""
        if parts:
            with self._tree.made(parts[:-1]) as parent:
                name = parts[-1]
                try:
                    status = os.lstat(name, dir_fd=parent)
                except FileNotFoundError:
                    os.mkdir(name, 0o700, dir_fd=parent)
                else:
                    if self._is_layer and is_whiteout(status):
                        self._tree.unhide(parent, name)
                    elif not stat.S_ISDIR(status.st_mode):
                        self._tree.clear(parent, name)
                        os.mkdir(name, 0o700, dir_fd=parent)
                self._dress_directory(entry, os.open(name, DIRECTORY, dir_fd=parent))
        else:
            self._dress_directory(entry, os.dup(self._tree.root))
        self._times.pop(tuple(parts), None)
        self._times[tuple(parts)] = entry.mtime_ns

    def _dress_directory(self, entry: Entry, descriptor: int) -> None:
        try:
            self._dress(entry, descriptor)
        finally:
            os.close(descriptor)

    def _dress(self, entry: Entry, descriptor: int) -> None:
        """Owner, mode and attributes of an open file or directory.

        In this order: chown(2) clears the setuid bits and the capabilities.
        """
        if self._owners:
            os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, entry.mode)
        for name, value in entry.xattrs.items():
            if kept(name, layer=self._is_layer):
                os.setxattr(descriptor, name, value)

    def _file(self, entry: Entry, parent: int, name: bytes) -> None:
        """A regular file with its content."""
        if entry.size > self._bounds.size:
            raise self._refuse(
                f"has a file {entry.shown()} of {entry.size} bytes, more than {self._bounds.size}"
            )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            if entry.sparse is None:
                for data in self._archive.chunks():
                    write_all(descriptor, data)
            else:
                self._sparse(entry.sparse, descriptor)
                os.ftruncate(descriptor, entry.size)
            self.size += entry.stored
            self._dress(entry, descriptor)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _sparse(self, pieces: list[tuple[int, int]], descriptor: int) -> None:
        """The stored data at the places it belongs; the parser made sure that lengths and data agree."""
        remaining = iter(pieces)
        length = 0
        for data in self._archive.chunks():
            while data:
                while not length:
                    offset, length = next(remaining)
                    os.lseek(descriptor, offset, os.SEEK_SET)
                write_all(descriptor, data[:length])
                data, length = data[length:], length - min(length, len(data))

    def _hard_link(self, entry: Entry, parent: int, name: bytes) -> None:
        """Another name for an earlier file of this layer."""
        parts = self._components(entry.target, entry)
        shown = ascii(entry.target[:200].decode("utf-8", "backslashreplace"))
        missing = self._refuse(f"has a hard link {entry.shown()} to {shown}, which is no file of this layer")
        if not parts:
            raise missing
        try:
            source = self._tree.existing(parts[:-1])
        except OSError:
            raise missing from None
        try:
            status = os.lstat(parts[-1], dir_fd=source)
            if stat.S_ISDIR(status.st_mode) or self._is_layer and is_whiteout(status):
                raise missing
            with suppress(FileNotFoundError):
                if os.path.samestat(status, os.lstat(name, dir_fd=parent)):
                    return  # the same file already, perhaps the very same name
            self._tree.clear(parent, name)
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise missing from None
        finally:
            os.close(source)

    def _special(self, entry: Entry, parent: int, name: bytes) -> None:
        """A symlink, FIFO or device: never opened, so its attributes go through the parent's descriptor."""
        if entry.kind == "symlink":
            if not entry.target or b"\0" in entry.target or len(entry.target) > self._bounds.path:
                raise self._refuse(
                    f"has a symlink {entry.shown()} whose target is empty, has a NUL or is too long"
                )
            os.symlink(entry.target, name, dir_fd=parent)
        elif entry.kind == "fifo":
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            kind = stat.S_IFCHR if entry.kind == "character device" else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
        if self._owners:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != "symlink":
            os.chmod(name, entry.mode, dir_fd=parent)
        for attribute, value in entry.xattrs.items():
            # xattr(7): user.* is for files and directories only.
            if kept(attribute, layer=self._is_layer) and not attribute.startswith("user."):
                os.setxattr(b"/proc/self/fd/%d/%s" % (parent, name), attribute, value, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _whiteout(self, entry: Entry, parent: int, name: bytes) -> None:
        """What hides names of lower layers."""
        if name == b".wh..wh..opq":
            self._opaque(parent)
            return
        if name.startswith(b".wh..wh."):
            return  # AUFS's own files
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise self._refuse(f"has a whiteout {entry.shown()} that names no file")
        try:
            status = os.lstat(hidden, dir_fd=parent)
        except FileNotFoundError:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            return
        # The layer itself has the name, so the whiteout only concerns what lower layers have there.
        if stat.S_ISDIR(status.st_mode):
            descriptor = os.open(hidden, DIRECTORY, dir_fd=parent)
            try:
                self._opaque(descriptor)
            finally:
                os.close(descriptor)

    def _opaque(self, descriptor: int) -> None:
        try:
            os.setxattr(descriptor, OPAQUE, b"y")
        except PermissionError as error:
            raise HostError(
                f"Can't unpack {self._what[:1].lower()}{self._what[1:]}: marking a directory opaque needs root.",
                hint="Run gear with sudo.",
            ) from error


def kept(name: str, *, layer: bool = True) -> bool:
    """Whether an image, or with *layer* False what was in a volume, may set the extended attribute *name*."""
    return name in KEPT or (name.startswith("user.") and not (layer and name.startswith("user.overlay.")))
