"""What a container will see of its image: the layers merged, read without mounting anything.

Read-only, except for copy_tree() which writes to a fresh directory of the host.  The content is hostile:
nothing outside the layers is opened, nothing but regular files is read, and no program or library of the
image runs.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gear import accounts, duplicate, files
from gear.accounts import Identity
from gear.errors import GearError, IntegrityError
from gear.layer import kept
from gear.merged import is_opaque
from gear.records import dataclass
from gear.tree import DIRECTORY, is_whiteout

# As many as Linux follows for one path, path_resolution(7).
SYMLINKS = 40
ACCOUNTS_LIMIT = 4 << 20
REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class _Found:
    """Where a name leads: to a merged directory (its descriptors, highest layer first), or to something else
    called *name* in *parent*."""

    directories: tuple[int, ...]
    parent: int = -1
    name: bytes = b""
    status: os.stat_result | None = None


class View:
    """The merged layers *roots*, lowest first."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    def read_file(self, path: str, limit: int) -> bytes | None:
        """The content of a regular file, symlinks followed inside the image; None when there is no such file.

        Raises IntegrityError for anything else by that name, and for more than *limit* bytes.
        """
        with ExitStack() as stack, files.explained(f"read {path!r} of the image"):
            found = self._resolve(path, stack)
            if found is None:
                return None
            if found.status is None or not stat.S_ISREG(found.status.st_mode):
                raise IntegrityError(f"{path!r} of the image is not a regular file.")
            descriptor = os.open(found.name, REGULAR, dir_fd=found.parent)
            with open(descriptor, "rb") as file:
                data = file.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"{path!r} of the image is larger than {limit} bytes.")
        return data

    def copy_tree(self, path: str, destination: Path) -> bool:
        """Copy the directory *path* of the image into the empty directory *destination*, which gets its owner
        and mode, too.  False when the image has no such directory.

        Devices and sockets are left out.  On failure the destination is left half-filled.
        """
        with ExitStack() as stack, files.explained(f"copy {path!r} of the image to {destination}"):
            # For each level a directory of each layer is open.
            stack.enter_context(_all_descriptors())
            found = self._resolve(path, stack)
            if found is None or not found.directories:
                return False
            target = os.open(destination, DIRECTORY)
            stack.callback(os.close, target)
            if os.listdir(target):
                raise GearError(f"{destination} is not empty, so nothing of the image is copied there.")
            _Copy(target).directory(found.directories, target, b"")
        return True

    def lookup_user(self, text: str, ids: int = accounts.IDS) -> Identity:
        """Who the image's USER *text* is, by its own /etc/passwd and /etc/group, as Docker decides it."""
        return accounts.lookup(lambda path: self.read_file(path, ACCOUNTS_LIMIT), text, ids=ids)

    def lookup_group(self, text: str) -> int:
        """The id of a group given by name or number; raises UsageError for a name that the image has not."""
        return accounts.lookup_group(lambda path: self.read_file(path, ACCOUNTS_LIMIT), text)

    def _resolve(self, path: str, stack: ExitStack) -> _Found | None:
        """Where *path* leads; the descriptors are closed with *stack*."""
        root = []
        for layer in reversed(self._roots):
            root.append(os.open(layer, DIRECTORY))
            stack.callback(os.close, root[-1])
            if is_opaque(root[-1]):
                break
        trail = [tuple(root)]
        pending = [part for part in reversed(os.fsencode(path).split(b"/")) if part not in (b"", b".")]
        followed = 0
        while pending:
            name = pending.pop()
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            found = _look(trail[-1], name, stack)
            if found is None:
                return None
            if found.status is None:
                trail.append(found.directories)
            elif stat.S_ISLNK(found.status.st_mode):
                followed += 1
                if followed > SYMLINKS:
                    raise IntegrityError(
                        f"{path!r} of the image leads through more than {SYMLINKS} symlinks."
                    )
                target = os.readlink(name, dir_fd=found.parent)
                if target.startswith(b"/"):
                    del trail[1:]
                pending += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
            else:
                return found if not pending else None
        return _Found(trail[-1])


@contextmanager
def _all_descriptors() -> Iterator[None]:
    """Let this process have as many files open as it may, getrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _look(directories: Sequence[int], name: bytes, stack: ExitStack) -> _Found | None:
    """*name* in a merged directory, by overlayfs's rules; an opened directory is closed with *stack*."""
    below: list[int] = []
    for directory in directories:
        try:
            status = os.lstat(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        if is_whiteout(status):
            break
        if not stat.S_ISDIR(status.st_mode):
            if below:
                break
            return _Found((), directory, name, status)
        below.append(os.open(name, DIRECTORY, dir_fd=directory))
        stack.callback(os.close, below[-1])
        if is_opaque(below[-1]):
            break
    return _Found(tuple(below)) if below else None


class _Copy:
    """One run of copy_tree()."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._owners = os.geteuid() == 0
        self._share = True
        # (device, inode) of a file with several names -> the name of its copy, from the root.
        self._links: dict[tuple[int, int], bytes] = {}

    def directory(self, sources: Sequence[int], target: int, path: bytes) -> None:
        """Fill *target*, then give it the attributes of the highest of *sources*."""
        names = {os.fsencode(name) for source in sources for name in os.listdir(source)}
        for name in sorted(names):
            with ExitStack() as stack:
                found = _look(sources, name, stack)
                if found is None:
                    continue
                if found.status is None:
                    os.mkdir(name, 0o700, dir_fd=target)
                    below = os.open(name, DIRECTORY, dir_fd=target)
                    stack.callback(os.close, below)
                    self.directory(found.directories, below, path + name + b"/")
                else:
                    self._file(found, found.status, target, path + name)
        status = os.fstat(sources[0])
        self._dress(sources[0], status, target)
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _file(self, found: _Found, status: os.stat_result, target: int, path: bytes) -> None:
        """Anything but a directory."""
        name = found.name
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._links:
            os.link(self._links[key], name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
            return
        if stat.S_ISREG(status.st_mode):
            self._regular(found, target)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=found.parent), name, dir_fd=target)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(name, 0o600, dir_fd=target)
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        else:
            return
        if not stat.S_ISREG(status.st_mode) and self._owners:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        if status.st_nlink > 1:
            self._links[key] = path

    def _regular(self, found: _Found, target: int) -> None:
        """A regular file; holes stay holes, so a sparse file of the image does not fill the disk."""
        source = os.open(found.name, REGULAR, dir_fd=found.parent)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            copy = os.open(found.name, flags, 0o600, dir_fd=target)
            try:
                status = os.fstat(source)
                self._share = duplicate.copy_content(source, copy, status.st_size, share=self._share)
                self._dress(source, status, copy)
            finally:
                os.close(copy)
        finally:
            os.close(source)

    def _dress(self, source: int, status: os.stat_result, target: int) -> None:
        """Owner, mode and extended attributes; chown(2) first, for it clears setuid bits and capabilities."""
        if self._owners:
            os.fchown(target, status.st_uid, status.st_gid)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        for name in os.listxattr(source):
            if kept(name):
                os.setxattr(target, name, os.getxattr(source, name))
