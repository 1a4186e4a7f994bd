"""Directories below one root, reached without ever leaving it.

Not for the host's own files (gear/files.py).  openat2(2) with RESOLVE_IN_ROOT would find an existing
directory in one call; unpacking also has to make the missing ones and to see every symlink, so each component
is opened by itself.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPAQUE = "trusted.overlay.opaque"


class Tree:
    """The tree below the directory that *root* is open on; nobody else changes it."""

    def __init__(self, root: int, *, symlinks: int, depth: int) -> None:
        self.root = root
        self._symlinks, self._depth = symlinks, depth
        # The parent asked for last: archives list a directory's entries one after another.
        self._last: Sequence[bytes] | None = None
        self._kept: int | None = None

    def close(self) -> None:
        """Close what is kept open; the root is the caller's."""
        self._last = None
        if self._kept is not None:
            os.close(self._kept)
            self._kept = None

    def existing(self, parts: Sequence[bytes]) -> int:
        """A descriptor of the directory *parts*, which the caller closes; symlinks stay inside.

        Raises FileNotFoundError or NotADirectoryError.
        """
        return self._resolve(parts, make=False)

    @contextmanager
    def made(self, parts: Sequence[bytes]) -> Iterator[int]:
        """The directory *parts*, made where it is missing.  Not to be nested."""
        if self._last != parts or self._kept is None:
            self.close()
            self._kept = self._resolve(parts, make=True)
            self._last = list(parts)
        yield self._kept

    def _resolve(self, parts: Sequence[bytes], *, make: bool) -> int:
        opened = [os.dup(self.root)]
        try:
            pending = list(reversed(parts))
            followed = 0
            while pending:
                name = pending.pop()
                if name == b"..":  # of a symlink's target; the root is its own parent
                    if len(opened) > 1:
                        os.close(opened.pop())
                    continue
                descriptor = self._open(opened[-1], name, make=make)
                if descriptor is not None:
                    opened.append(descriptor)
                    if len(opened) > self._depth + 1:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    continue
                followed += 1
                if followed > self._symlinks:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = os.readlink(name, dir_fd=opened[-1])
                if target.startswith(b"/"):
                    while len(opened) > 1:
                        os.close(opened.pop())
                pending += reversed([part for part in target.split(b"/") if part not in (b"", b".")])
                if len(pending) > 2 * self._depth:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            return opened.pop()
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _open(self, parent: int, name: bytes, *, make: bool) -> int | None:
        """The directory *name* below *parent*; None when that is a symlink."""
        try:
            return os.open(name, DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(name, 0o755, dir_fd=parent)
            descriptor = os.open(name, DIRECTORY, dir_fd=parent)
            os.fchmod(descriptor, 0o755)  # whatever the umask
            return descriptor
        except OSError as error:
            # O_DIRECTORY with O_NOFOLLOW on a symlink is ENOTDIR, open(2).
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            status = os.lstat(name, dir_fd=parent)
            if stat.S_ISLNK(status.st_mode):
                return None
            if make and is_whiteout(status):
                self.unhide(parent, name)
                return os.open(name, DIRECTORY, dir_fd=parent)
            raise

    def clear(self, parent: int, name: bytes) -> None:
        """Make room: a later entry of the same name replaces an earlier one, tree and all."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=parent)
        # What was removed may have been part of the way to the kept parent.
        self._last = None

    def unhide(self, parent: int, name: bytes) -> None:
        """Turn the whiteout *name* into an opaque directory, which hides the same and can hold entries."""
        self.clear(parent, name)
        os.mkdir(name, 0o755, dir_fd=parent)
        descriptor = os.open(name, DIRECTORY, dir_fd=parent)
        try:
            os.fchmod(descriptor, 0o755)
            os.setxattr(descriptor, OPAQUE, b"y")
        finally:
            os.close(descriptor)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether overlayfs takes this for "nothing here, nor in lower layers"."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
