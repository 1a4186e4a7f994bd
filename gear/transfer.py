"""A file or tree as a tar stream, out of a place and into a place that somebody may change meanwhile: gear cp.

Not image layers, whose directories nobody else touches (gear/layer.py, gear/pack.py).  Here the other side may be a
hostile container that exchanges directories for links all the time.  So nothing is opened by a path of more than one
component except with openat2(2), what came out is looked at before it is opened, and a directory is only ever
reached from the descriptor of its parent.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from gear.errors import GearError, UsageError
from gear.files import write_all
from gear.inroot import INSIDE, find, opened, reopen
from gear.pack import header
from gear.tarstream import BLOCK, Archive, Entry

_CHUNK = 1 << 20
_DEPTH = 256
_WORDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Warn = Callable[[str], None]


class Packer:
    """Writes what one descriptor refers to as a tar stream."""

    def __init__(self, output: int, warn: Warn, skip_devices: frozenset[int] = frozenset()) -> None:
        self._output, self._warn = output, warn
        self._skip = skip_devices

    def pack(self, place: int, name: bytes) -> None:
        """The whole of *place*, an O_PATH descriptor, as *name*; then the end of the archive."""
        if not self._any(place, name, 0):
            kind = _WORDS.get(stat.S_IFMT(os.fstat(place).st_mode), "something else")
            raise GearError(f"{_shown(name)} is {kind}, which can't be copied.")
        write_all(self._output, bytes(2 * BLOCK))

    def _any(self, place: int, name: bytes, depth: int) -> bool:
        status = os.fstat(place)
        if stat.S_ISDIR(status.st_mode):
            self._directory(place, name, status, depth)
        elif stat.S_ISLNK(status.st_mode):
            target = os.readlink(b"", dir_fd=place)
            write_all(self._output, header(name, b"2", status, target=target))
        elif stat.S_ISREG(status.st_mode):
            with opened(reopen(place, os.O_RDONLY | os.O_NONBLOCK)) as file:
                self._regular(file, name)
        else:
            return False
        return True

    def _directory(self, place: int, name: bytes, status: os.stat_result, depth: int) -> None:
        if depth >= _DEPTH:
            raise GearError(f"{_shown(name)} lies deeper than {_DEPTH} directories.")
        write_all(self._output, header(name + b"/", b"5", status))
        with opened(reopen(place, os.O_RDONLY | os.O_DIRECTORY)) as directory:
            for entry in sorted(os.fsencode(item) for item in os.listdir(directory)):
                below = name + b"/" + entry
                try:
                    child = os.open(entry, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                except FileNotFoundError:  # removed meanwhile
                    continue
                with opened(child):
                    found = os.fstat(child)
                    if found.st_dev in self._skip:
                        self._warn(f"{_shown(below)} is left out: it belongs to the kernel")
                    elif not self._any(child, below, depth + 1):
                        kind = _WORDS.get(stat.S_IFMT(found.st_mode), "something else")
                        self._warn(f"{_shown(below)} is left out: it is {kind}")

    def _regular(self, file: int, name: bytes) -> None:
        status = os.fstat(file)
        write_all(self._output, header(name, b"0", status, size=status.st_size))
        remaining = status.st_size
        while remaining:
            data = os.read(file, min(_CHUNK, remaining))
            if not data:
                self._warn(f"{_shown(name)} became shorter while it was copied; the rest is zeros")
                while remaining:
                    remaining -= (size := min(_CHUNK, remaining))
                    write_all(self._output, bytes(size))
                break
            remaining -= len(data)
            write_all(self._output, data)
        write_all(self._output, bytes(-status.st_size % BLOCK))


class Unpacker:
    """Makes what a tar stream holds below one directory, and never anything elsewhere."""

    def __init__(self, archive: Archive, warn: Warn, *, owners: bool, trusted_modes: bool) -> None:
        """*owners*: keep the ids of the stream.  Without *trusted_modes* no file gets set-user-ID rights."""
        self._archive, self._warn = archive, warn
        self._owners = owners
        self._modes = 0o7777 if trusted_modes else 0o1777
        self._times: list[tuple[bytes, int]] = []

    def below(self, directory: int) -> None:
        """Everything below *directory*, under the names it has."""
        for entry in self._archive:
            self._entry(directory, self._parts(entry.name), entry)
        self._finish(directory)

    def as_name(self, directory: int, name: bytes | None, *, only_directory: bool = False) -> None:
        """The one tree of the stream below *directory*, its top called *name*; None: what is in it, in *directory*."""
        first = True
        for entry in self._archive:
            parts = self._parts(entry.name, top=True)
            if first and entry.kind != "directory":
                if name is None:
                    raise UsageError("Only a directory has content that can be copied without it.")
                if only_directory:
                    raise UsageError("A file can't be copied to a directory that does not exist.")
            first = False
            self._entry(directory, parts if name is None else [name, *parts], entry)
        self._finish(directory)

    def over(self, place: int, what: str) -> None:
        """The one file of the stream over the regular file *place*, which stays the same file."""
        for number, entry in enumerate(self._archive):
            if number or entry.kind != "file":
                raise GearError(f"A {entry.kind} can't be copied over the file {what}.")
            with opened(reopen(place, os.O_WRONLY | os.O_TRUNC)) as file:
                self._content(file)

    def _parts(self, name: bytes, *, top: bool = False) -> list[bytes]:
        """The components of *name*; of a tree of our own without the first, which is its top."""
        raw = name.split(b"/")
        parts = [part for part in (raw[1:] if top else raw) if part not in (b"", b".")]
        if b".." in parts:
            raise GearError(f"The archive has an entry {_shown(name)} that leads out of it.")
        return parts

    def _parent(self, directory: int, parts: list[bytes]) -> int:
        """The directory of an entry, made where an archive does not list it; the caller closes it."""
        try:
            return find(directory, b"/".join(parts[:-1]) or b".", os.O_PATH | os.O_DIRECTORY, resolve=INSIDE)
        except FileNotFoundError:
            pass
        here = os.dup(directory)
        for part in parts[:-1]:
            with opened(here):
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
                here = find(here, part, os.O_PATH | os.O_DIRECTORY, resolve=INSIDE)
        return here

    def _entry(self, directory: int, parts: list[bytes], entry: Entry) -> None:
        if not parts:  # the directory itself, which was there before
            return
        try:
            with opened(self._parent(directory, parts)) as parent:
                self._make(directory, parent, parts, entry)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            reason = os.strerror(error.errno or 0)
            if error.errno in (errno.ELOOP, errno.EXDEV):
                reason = "a symbolic link is on the way to it"
            elif error.errno == errno.EINVAL and self._owners:
                reason = f"the container has no user {entry.uid} or no group {entry.gid}"
            raise GearError(f"Can't write {_shown(b'/'.join(parts))}: {reason}.") from error

    def _make(self, directory: int, parent: int, parts: list[bytes], entry: Entry) -> None:
        name = parts[-1]
        if entry.kind == "directory":
            self._make_directory(parent, name, entry)
            self._times.append((b"/".join(parts), entry.mtime_ns))
        elif entry.kind == "file":
            with opened(self._fresh(parent, name)) as file:
                self._content(file, entry)
                if self._owners:
                    os.fchown(file, entry.uid, entry.gid)
                os.fchmod(file, entry.mode & self._modes)
                os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        elif entry.kind == "symlink":
            _remove(parent, name)
            os.symlink(entry.target, name, dir_fd=parent)
            if self._owners:
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        elif entry.kind == "hard link":
            path = b"/".join(self._parts(entry.target))
            with opened(find(directory, path, os.O_PATH | os.O_NOFOLLOW, resolve=INSIDE)) as target:
                _remove(parent, name)
                os.link(f"/proc/self/fd/{target}", name, dst_dir_fd=parent)
        else:
            self._warn(f"{_shown(b'/'.join(parts))} is left out: it is a {entry.kind}")

    def _make_directory(self, parent: int, name: bytes, entry: Entry) -> None:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        with opened(
            os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        ) as made:
            if self._owners:
                os.fchown(made, entry.uid, entry.gid)
            os.fchmod(made, entry.mode & self._modes)

    def _fresh(self, parent: int, name: bytes) -> int:
        """A new file called *name*; what had the name is replaced, or written over where it is a mount."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            _remove(parent, name)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            with opened(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)) as place:
                if not stat.S_ISREG(os.fstat(place).st_mode):
                    raise
                return reopen(place, os.O_WRONLY | os.O_TRUNC)
        return os.open(name, flags, 0o600, dir_fd=parent)

    def _content(self, file: int, entry: Entry | None = None) -> None:
        """The data of the current entry; pieces of a sparse file go where they belong."""
        if entry is not None and entry.sparse is not None:
            os.ftruncate(file, entry.size)
            pieces = iter(entry.sparse)
            left = 0
            for data in self._archive.chunks():
                while data:
                    if not left:
                        offset, left = next(pieces)
                        os.lseek(file, offset, os.SEEK_SET)
                        continue
                    write_all(file, data[:left])
                    data, left = data[left:], max(left - len(data), 0)
            return
        for data in self._archive.chunks():
            write_all(file, data)

    def _finish(self, directory: int) -> None:
        """Times of directories come last: every file made in one changes them."""
        for path, mtime_ns in reversed(self._times):
            with suppress(OSError):  # somebody has replaced it
                with opened(find(directory, path, os.O_RDONLY | os.O_DIRECTORY, resolve=INSIDE)) as made:
                    os.utime(made, ns=(mtime_ns, mtime_ns))


def _remove(parent: int, name: bytes) -> None:
    """Make room for a new entry; a directory is not removed for what is none."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _shown(name: bytes) -> str:
    """A name for a message."""
    return ascii(name[:200].decode("utf-8", "backslashreplace")).strip("'\"")
