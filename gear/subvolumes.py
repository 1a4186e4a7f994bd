"""Subvolumes of btrfs, by ioctl_btrfs(2): making, copying and removing them.

Not the decision what becomes one.  Each function raises OSError, which tells nothing of what was wanted: callers know.
The numbers are those of linux/btrfs.h, as machines with the generic form of _IOC() have them (x86-64, arm64, riscv).
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from gear.tree import DIRECTORY

_SUBVOL_CREATE, _SNAP_DESTROY, _SNAP_CREATE_V2 = 0x5000940E, 0x5000940F, 0x50009417
_SUBVOL_GETFLAGS, _SUBVOL_SETFLAGS = 0x80089419, 0x4008941A
_FS_INFO, _GET_SUBVOL_ROOTREF = 0x8400941F, 0xD000943D
_RDONLY = 1 << 1
# The inode of a subvolume's own directory, BTRFS_FIRST_FREE_OBJECTID.
_TOP_INODE = 256
# struct btrfs_ioctl_fs_info_args: two numbers, then the file system's UUID.
_FS_INFO_SIZE, _UUID = 1024, slice(16, 32)
# struct btrfs_ioctl_vol_args is a number and a name; _v2 has flags in between.
_NAME_SIZE, _NAME_SIZE_V2 = 4088, 4040
# struct btrfs_ioctl_get_subvol_rootref_args: where to begin, 255 pairs of numbers, and how many of them there are.
_ROOTREF_SIZE, _ROOTREF_COUNT = 4096, 8 + 255 * 16


def file_system(path: Path) -> bytes | None:
    """The UUID of the btrfs that the directory *path* is on; None when it is on something else."""
    descriptor = os.open(path, DIRECTORY)
    try:
        return file_system_of(descriptor)
    finally:
        os.close(descriptor)


def file_system_of(directory: int) -> bytes | None:
    """The same for an open directory."""
    info = bytearray(_FS_INFO_SIZE)
    try:
        fcntl.ioctl(directory, _FS_INFO, info)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return None
    return bytes(info[_UUID])


def is_top(directory: int) -> bool:
    """Whether a directory of a btrfs is a subvolume's own."""
    return os.fstat(directory).st_ino == _TOP_INODE


def create(path: Path) -> None:
    """Make the empty subvolume *path*, 0755 and root's."""
    parent = os.open(path.parent, DIRECTORY)
    try:
        fcntl.ioctl(parent, _SUBVOL_CREATE, bytearray(bytes(8) + _name(os.fsencode(path.name), _NAME_SIZE)))
    finally:
        os.close(parent)


def snapshot(source: Path, target: Path) -> None:
    """Make *target*, a writable copy of the subvolume *source* that shares everything with it.

    Subvolumes inside are empty directories in the copy: see has_nested().
    """
    parent = os.open(target.parent, DIRECTORY)
    try:
        original = os.open(source, DIRECTORY)
        try:
            # struct btrfs_ioctl_vol_args_v2: the source, a transaction, flags, four words, the name.
            head = original.to_bytes(8, "little") + bytes(8 + 8 + 32)
            name = _name(os.fsencode(target.name), _NAME_SIZE_V2)
            fcntl.ioctl(parent, _SNAP_CREATE_V2, bytearray(head + name))
        finally:
            os.close(original)
    finally:
        os.close(parent)


def set_read_only(directory: int, read_only: bool) -> None:
    """Let nobody write to an open subvolume from now on, or everybody again who has the rights."""
    flags = bytearray(8)
    fcntl.ioctl(directory, _SUBVOL_GETFLAGS, flags)
    wanted = int.from_bytes(flags, "little") & ~_RDONLY | (_RDONLY if read_only else 0)
    fcntl.ioctl(directory, _SUBVOL_SETFLAGS, wanted.to_bytes(8, "little"))


def seal(path: Path) -> None:
    """Make the subvolume *path* read-only."""
    directory = os.open(path, DIRECTORY)
    try:
        set_read_only(directory, True)
    finally:
        os.close(directory)


def has_nested(path: Path) -> bool:
    """Whether there are other subvolumes directly inside the subvolume *path*; any process may make some in its own."""
    directory = os.open(path, DIRECTORY)
    try:
        found = bytearray(_ROOTREF_SIZE)
        try:
            fcntl.ioctl(directory, _GET_SUBVOL_ROOTREF, found)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:  # more than one answer holds
                raise
            return True
        return found[_ROOTREF_COUNT] > 0
    finally:
        os.close(directory)


def destroy(parent: int, name: bytes) -> bool:
    """Remove the subvolume *name* of the open directory *parent* at once; False when there are others inside."""
    try:
        fcntl.ioctl(parent, _SNAP_DESTROY, bytearray(bytes(8) + _name(name, _NAME_SIZE)))
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _name(name: bytes, size: int) -> bytes:
    return name.ljust(size, b"\0")
