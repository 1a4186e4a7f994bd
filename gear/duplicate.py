"""Copies of whole directory trees of the host, as the copied one is: a writable part, a volume.

Not for trees of images (gear/view.py), whose attributes nobody may be trusted with.  Here everything is kept: owners,
modes, times, extended attributes with overlayfs's own, access lists, hard links, holes, whiteouts and other devices.
Content is shared where the file system can (FICLONE, ioctl_ficlone(2): btrfs, xfs), and copied otherwise.

The source may belong to a container.  Nothing outside it is read: no symlink is followed, and nothing is opened but
directories and regular files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from gear import files
from gear.errors import GearError
from gear.tree import DIRECTORY, is_whiteout

# linux/fs.h
_FICLONE = 0x40049409
# What comes back where nothing can be shared: by this file system, between these two, or of this file.
_NO_CLONES = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)
# Two descriptors are open for each level.
DEPTH = 400
_REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CAPABILITY = "security.capability"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
# linux/capability.h: the version of struct vfs_ns_cap_data, and where the user id in it is
_CAPABILITY_3, _ROOT_ID = 0x03000000, 20
# linux/posix_acl_xattr.h: a header of four bytes, entries of eight: tag, permissions, id.
_ACL_HEADER, _ACL_ENTRY = 4, 8
_ACL_USER, _ACL_GROUP = 0x02, 0x08


def copy_tree(source: Path, target: Path, *, shift: int = 0) -> None:
    """Copy the directory *source* to *target*, a directory that exists and is empty; it gets the owner, mode and
    attributes of *source*, too.

    *shift* is added to all user and group ids: of owners, in access lists, and in file capabilities.  Nothing is made
    durable; on failure the target is left half-filled.  Raises GearError.
    """
    with files.explained(f"copy {source} to {target}"):
        original = os.open(source, DIRECTORY)
        try:
            copy = os.open(target, DIRECTORY)
            try:
                if os.listdir(copy):
                    raise GearError(f"{target} is not empty, so nothing is copied there.")
                _Copy(source, copy, shift).directory(original, copy, b"", 0)
            finally:
                os.close(copy)
        finally:
            os.close(original)


def copy_content(source: int, target: int, size: int, *, share: bool = True) -> bool:
    """Give the empty file *target* the *size* bytes of *source*, both descriptors; what is a hole stays one.

    Returns what *share* should be for the next file: whether these two file systems may have content shared.
    """
    if share:
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if error.errno not in _NO_CLONES:
                raise
            # Of this file only, which may be a swap file, or one without checksums.
            share = error.errno == errno.EINVAL
        else:
            return True
    os.ftruncate(target, size)
    offset = 0
    while (start := _next_data(source, offset)) is not None:
        offset = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, offset)
    return share


def _next_data(source: int, offset: int) -> int | None:
    """Where data begins at or after *offset*, or None when only a hole is left."""
    try:
        return os.lseek(source, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    """The bytes from *start* to *end*."""
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        count = os.sendfile(target, source, start, end - start)
        if count == 0:
            return
        start += count


class _Copy:
    """One run of copy_tree()."""

    def __init__(self, what: Path, root: int, shift: int) -> None:
        self._what, self._root, self._shift = what, root, shift
        self._share = True
        # (device, inode) of a file with several names -> the name of its copy, from the root.
        self._links: dict[tuple[int, int], bytes] = {}

    def directory(self, source: int, target: int, path: bytes, depth: int) -> None:
        """Fill *target*, then give it what *source* has."""
        if depth > DEPTH:
            raise GearError(f"{self._what} can't be copied: it is more than {DEPTH} directories deep.")
        for name in sorted(map(os.fsencode, os.listdir(source))):
            status = os.lstat(name, dir_fd=source)
            if not stat.S_ISDIR(status.st_mode):
                self._file(source, target, name, status, path + name)
                continue
            below = os.open(name, DIRECTORY, dir_fd=source)
            try:
                os.mkdir(name, 0o700, dir_fd=target)
                copy = os.open(name, DIRECTORY, dir_fd=target)
                try:
                    self.directory(below, copy, path + name + b"/", depth + 1)
                finally:
                    os.close(copy)
            finally:
                os.close(below)
        self._dress(source, target, os.fstat(source))

    def _file(self, source: int, target: int, name: bytes, status: os.stat_result, path: bytes) -> None:
        """Anything but a directory."""
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._links:
            os.link(self._links[key], name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
            return
        if stat.S_ISREG(status.st_mode):
            self._regular(source, target, name)
        else:
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            else:
                os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=target)
            self._dress_name(source, target, name, status)
        if status.st_nlink > 1:
            self._links[key] = path

    def _regular(self, source: int, target: int, name: bytes) -> None:
        original = os.open(name, _REGULAR, dir_fd=source)
        try:
            status = os.fstat(original)
            if not stat.S_ISREG(status.st_mode):  # another one since it was looked at
                raise GearError(f"{self._what} can't be copied: it changes meanwhile.")
            copy = os.open(name, _NEW, 0o600, dir_fd=target)
            try:
                self._share = copy_content(original, copy, status.st_size, share=self._share)
                self._dress(original, copy, status)
            finally:
                os.close(copy)
        finally:
            os.close(original)

    def _dress(self, source: int, target: int, status: os.stat_result) -> None:
        """Owner, mode, attributes and times; chown(2) first, for it clears setuid bits and capabilities."""
        os.fchown(target, self._shifted(status.st_uid), self._shifted(status.st_gid))
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        for name in os.listxattr(source):
            os.setxattr(target, name, self._attribute(name, os.getxattr(source, name)))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _dress_name(self, source: int, target: int, name: bytes, status: os.stat_result) -> None:
        """The same for what can't be opened."""
        uid, gid = status.st_uid, status.st_gid
        if not is_whiteout(status):  # overlayfs makes those as the host's root
            uid, gid = self._shifted(uid), self._shifted(gid)
        os.chown(name, uid, gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        # There are no calls for attributes that take a directory's descriptor before Linux 6.13.
        original, copy = (b"/proc/self/fd/%d/%s" % (directory, name) for directory in (source, target))
        with suppress(FileNotFoundError):
            for attribute in os.listxattr(original, follow_symlinks=False):
                value = self._attribute(attribute, os.getxattr(original, attribute, follow_symlinks=False))
                os.setxattr(copy, attribute, value, follow_symlinks=False)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _shifted(self, number: int) -> int:
        moved = number + self._shift
        if not 0 <= moved < (1 << 32) - 1:
            raise GearError(f"{self._what} can't be copied: the id {number} in it is no container's.")
        return moved

    def _attribute(self, name: str, value: bytes) -> bytes:
        """*value* with the ids in it shifted."""
        if not self._shift:
            return value
        if name == _CAPABILITY and _number(value, 0, 4) & 0xFF000000 == _CAPABILITY_3:
            return self._with_id(value, _ROOT_ID)
        if name in _ACLS:
            for place in range(_ACL_HEADER, len(value), _ACL_ENTRY):
                if _number(value, place, 2) in (_ACL_USER, _ACL_GROUP):
                    value = self._with_id(value, place + 4)
        return value

    def _with_id(self, value: bytes, place: int) -> bytes:
        """*value* with the id at *place* shifted."""
        moved = self._shifted(_number(value, place, 4))
        return value[:place] + moved.to_bytes(4, "little") + value[place + 4 :]


def _number(value: bytes, place: int, size: int) -> int:
    """These attributes are little-endian on every machine."""
    return int.from_bytes(value[place : place + size], "little")
