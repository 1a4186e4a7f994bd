"""Filling a fresh tmpfs with what it covers: the mount option `tmpcopyup`."""

from __future__ import annotations

import posix as os
from _stat import S_ISDIR, S_ISLNK, S_ISREG

from gear.helper.failure import Failure, Step

_MOST_DEPTH = 200


def copy_up(source: int, target: int, step: Step) -> None:
    """Copy the tree of the directory *source* (it may be O_PATH) into *target*; closes *target*."""
    step.doing = "copy into the new tmpfs"
    _copy_directory(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source), target, 0)


def _copy_directory(source: int, target: int, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise Failure(f"can't copy into the new tmpfs: directories are more than {_MOST_DEPTH} deep")
    status = os.fstat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, status.st_mode & 0o7777)
    for name in os.listdir(source):
        entry = os.stat(name, dir_fd=source, follow_symlinks=False)
        if S_ISDIR(entry.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, flags, dir_fd=source)
            _copy_directory(inner, os.open(name, flags, dir_fd=target), depth + 1)
        elif S_ISLNK(entry.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, entry.st_uid, entry.st_gid, dir_fd=target, follow_symlinks=False)
        elif S_ISREG(entry.st_mode):
            _copy_file(name, source, target)
        # Sockets, FIFOs and devices make no sense as copies.
    os.close(source)
    os.close(target)


def _copy_file(name: str, source: int, target: int) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    writing = os.open(name, flags, 0o600, dir_fd=target)
    status = os.fstat(reading)
    while os.sendfile(writing, reading, None, 1 << 30):
        pass
    os.chown(writing, status.st_uid, status.st_gid)
    os.chmod(writing, status.st_mode & 0o7777)
    os.close(reading)
    os.close(writing)
