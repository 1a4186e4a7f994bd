"""Limits of what a directory tree may take on its file system: of subvolumes on btrfs, of projects on xfs and ext4.

Not whose tree it is (gear/volumestore.py).  The kernel keeps to them wherever the tree is mounted.  Whether a file
system counts at all is its administrator's decision, as counting costs something: gear never switches that on.

btrfs: the group 0/ID of a subvolume, btrfs-qgroup(8).
xfs, ext4: a project, quotactl(2) and ioctl_xfs_fsgetxattr(2).  A directory hands its project to what is made in it,
and whoever is in a user namespace of its own can't change that (fileattr_set_prepare() in fs/file_attr.c).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from gear import files, subvolumes
from gear.errors import GearError, HostError
from gear.tree import DIRECTORY

# linux/btrfs.h: the inode of a subvolume's root, struct btrfs_ioctl_ino_lookup_args and _qgroup_limit_args.
_TOP_INODE = 256
_INO_LOOKUP, _INO_LOOKUP_SIZE = 0xD0009412, 4096
_QGROUP_LIMIT, _QGROUP_LIMITS = 0x8030942B, struct.Struct("<6Q")
_MAX_REFERENCED = 1
# What it keeps of a group in the tree of quotas, and struct btrfs_ioctl_search_args by which that is read: a key whose
# tenth number is how many were found, then these.
_QUOTA_TREE, _QGROUP_INFO, _QGROUP_LIMIT_ITEM = 8, 242, 244
_LIMIT_ITEM = struct.Struct("<5Q")
_TREE_SEARCH, _SEARCH_SIZE, _SEARCH_KEY = 0xD0009411, 4096, struct.Struct("<7Q3I")
_SEARCH_FOUND, _SEARCH_HEAD = 64, 104
_NO_LIMIT = (1 << 64) - 1
# linux/fs.h: struct fsxattr, and that what is made in a directory gets its project.
_GETXATTR, _SETXATTR, _FSXATTR = 0x801C581F, 0x401C5820, struct.Struct("<5I8s")
_PROJINHERIT = 0x200
# linux/dqblk_xfs.h: struct fs_disk_quota, which ext4 takes as well; blocks are of 512 bytes.
_DISK_QUOTA = struct.Struct("<bbHI6QiiHH4s3QiHh8s")
_GET, _SET_LIMIT = (ord("X") << 8) + 3, (ord("X") << 8) + 4
_PROJECTS, _IS_PROJECT, _BLOCK = 2, 2, 512
_SOFT, _HARD = 1 << 2, 1 << 3
# Asked for by number: glibc has no function for it.  The same on all machines.
_QUOTACTL_FD = 443
# Ids of projects that gear takes; administrators begin at 1.
_FIRST_PROJECT, _PROJECT_COUNT = 0x67650000, 1 << 16
# How deep a tree may be that is given a project after the fact; a descriptor is open for each level.
DEPTH = 400
_HINT = (
    "On btrfs: btrfs quota enable --simple PLACE (without --simple before Linux 6.7); xfs and ext4 are mounted with "
    "the option prjquota."
)


def limit(directory: Path, size: int | None, what: str) -> None:
    """Let the tree in *directory* take *size* bytes at most, or with None as many as there are; what is more already
    stays.  Raises HostError, which says *what* it is, where the file system can't."""
    with files.explained(f"limit the size of {what}"):
        top = os.open(directory, DIRECTORY)
        try:
            if subvolumes.file_system_of(top) is not None:
                _limit_subvolume(top, what, size)
            else:
                _limit_project(top, what, size)
        finally:
            os.close(top)


def limit_of(directory: Path) -> int | None:
    """The bytes that the kernel lets the tree in *directory* take; None when it has no limit."""
    with files.explained(f"read the limit of {directory}"):
        top = os.open(directory, DIRECTORY)
        try:
            if subvolumes.file_system_of(top) is not None:
                return _limit_in_group(top) if subvolumes.is_top(top) else None
            project = _attributes(top)[3]
            if not project:
                return None
            quota = _quota(top, project)
            return quota[4] * _BLOCK or None if quota else None
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
                return None
            raise
        finally:
            os.close(top)


def _refusal(what: str, why: str) -> HostError:
    return HostError(f"{what[:1].upper()}{what[1:]} can't be limited in size: {why}.", hint=_HINT)


def _limit_subvolume(top: int, what: str, size: int | None) -> None:
    if not subvolumes.is_top(top):
        if size is None:
            return
        raise _refusal(what, "it is no subvolume of btrfs but a directory in one")
    if not _is_counted(top):
        if size is None:
            return
        raise _refusal(what, "its btrfs does not count what subvolumes take (quotas are off)")
    wanted = _NO_LIMIT if size is None else size
    fcntl.ioctl(top, _QGROUP_LIMIT, _QGROUP_LIMITS.pack(0, _MAX_REFERENCED, wanted, 0, 0, 0))


def _is_counted(top: int) -> bool:
    """Whether the kernel counts what an open subvolume takes."""
    return _item(top, _QGROUP_INFO) is not None


def _limit_in_group(top: int) -> int | None:
    item = _item(top, _QGROUP_LIMIT_ITEM)
    if item is None:
        return None
    flags, size, *_ = _LIMIT_ITEM.unpack(item[: _LIMIT_ITEM.size])
    return size if flags & _MAX_REFERENCED and 0 < size < _NO_LIMIT else None


def _item(top: int, kind: int) -> bytes | None:
    """What the tree of quotas has of one *kind* for the open subvolume; None where there is nothing, or no such tree.

    Asked of the file system itself, as /sys/fs/btrfs is not everywhere where gear is.
    """
    lookup = bytearray(_INO_LOOKUP_SIZE)
    struct.pack_into("<QQ", lookup, 0, 0, _TOP_INODE)
    fcntl.ioctl(top, _INO_LOOKUP, lookup)
    (group,) = struct.unpack_from("<Q", lookup)
    search = bytearray(_SEARCH_SIZE)
    _SEARCH_KEY.pack_into(search, 0, _QUOTA_TREE, 0, 0, group, group, 0, _NO_LIMIT, kind, kind, 1)
    try:
        fcntl.ioctl(top, _TREE_SEARCH, search)
    except FileNotFoundError:
        return None
    if not struct.unpack_from("<I", search, _SEARCH_FOUND)[0]:
        return None
    # The header of what is found: three numbers, its kind and its length.
    (length,) = struct.unpack_from("<I", search, _SEARCH_HEAD + 28)
    first = _SEARCH_HEAD + 32
    return bytes(search[first : first + length])


def _attributes(descriptor: int) -> tuple[int, int, int, int, int, bytes]:
    """struct fsxattr of an open file: flags are first, the project is fourth."""
    found = bytearray(_FSXATTR.size)
    fcntl.ioctl(descriptor, _GETXATTR, found)
    flags, extent, extents, project, cow, rest = _FSXATTR.unpack(found)
    return flags, extent, extents, project, cow, rest


def _give(descriptor: int, project: int, *, inherit: bool) -> None:
    """Put an open file or directory into *project*."""
    flags, extent, extents, _, cow, rest = _attributes(descriptor)
    flags = flags | _PROJINHERIT if inherit else flags
    fcntl.ioctl(descriptor, _SETXATTR, _FSXATTR.pack(flags, extent, extents, project, cow, rest))


def _limit_project(top: int, what: str, size: int | None) -> None:
    try:
        project = _attributes(top)[3]
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
        if size is None:
            return
        raise _refusal(what, "its file system has no project quotas") from error
    if _quota(top, project or _FIRST_PROJECT) is None:
        if size is None:
            return
        raise _refusal(what, "its file system is not mounted with prjquota, or this kernel has none")
    if not project:
        if size is None:
            return
        project = _free_project(top, what)
        # The limit is there before anything is counted by it.
        _set_quota(top, project, size)
        _mark(top, project, what, 0)
    else:
        _set_quota(top, project, size or 0)


def _free_project(top: int, what: str) -> int:
    """The id of a project that has no files on this file system."""
    for project in range(_FIRST_PROJECT, _FIRST_PROJECT + _PROJECT_COUNT):
        quota = _quota(top, project)
        # Blocks and inodes in use; a limit alone is what a tree that was removed has left, and harms nobody.
        if quota is not None and not quota[8] and not quota[9]:
            return project
    raise GearError(f"{what} can't be limited in size: all {_PROJECT_COUNT} projects of gear are in use.")


def _mark(directory: int, project: int, what: str, depth: int) -> None:
    """Put an open directory and all below it into *project*: itself first, so that whatever is made meanwhile gets the
    project from it."""
    if depth > DEPTH:
        raise GearError(f"{what} can't be limited in size: it is more than {DEPTH} directories deep.")
    _give(directory, project, inherit=True)
    for name, status in _entries(directory):
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            continue  # can't be opened safely, and takes no space
        try:
            # O_NONBLOCK: it may be something else by now.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=directory)
        except OSError:  # gone meanwhile, or another one, which has the project
            continue
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                _mark(descriptor, project, what, depth + 1)
            elif stat.S_ISREG(mode):
                _give(descriptor, project, inherit=False)
        finally:
            os.close(descriptor)


def _entries(directory: int) -> Iterator[tuple[str, os.stat_result]]:
    for name in os.listdir(directory):
        try:
            yield name, os.lstat(name, dir_fd=directory)
        except FileNotFoundError:
            continue


def _quota(descriptor: int, project: int) -> tuple[int, ...] | None:
    """struct fs_disk_quota of a project, all zeros for one that was never used; None when the file system of the open
    file counts nothing by projects."""
    buffer = bytearray(_DISK_QUOTA.size)
    error = _quotactl(descriptor, _GET, project, buffer)
    if error == errno.ENOENT:  # xfs: there never was anything
        return _DISK_QUOTA.unpack(bytes(_DISK_QUOTA.size))
    if error in (errno.ENOSYS, errno.ESRCH, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTBLK, errno.ENODEV):
        return None
    if error:
        raise OSError(error, os.strerror(error))
    return _DISK_QUOTA.unpack(buffer)


def _set_quota(descriptor: int, project: int, size: int) -> None:
    """Limit a project to *size* bytes; 0 is no limit."""
    blocks = -(-size // _BLOCK)
    wanted = _DISK_QUOTA.pack(
        1, _IS_PROJECT, _SOFT | _HARD, project, blocks, blocks, *[0] * 8, b"", *[0] * 6, b""
    )
    error = _quotactl(descriptor, _SET_LIMIT, project, bytearray(wanted))
    if error:
        raise OSError(error, os.strerror(error))


def _quotactl(descriptor: int, command: int, project: int, buffer: bytearray) -> int:
    """quotactl_fd(2) with a structure in *buffer*; returns the error number, or 0."""
    import ctypes  # here, since it is slow to import and most volumes have no limit

    libc = ctypes.CDLL(None, use_errno=True)
    whole, address = command << 8 | _PROJECTS, (ctypes.c_char * len(buffer)).from_buffer(buffer)
    if libc.syscall(_QUOTACTL_FD, descriptor, ctypes.c_uint(whole), ctypes.c_uint(project), address) == 0:
        return 0
    return ctypes.get_errno()
