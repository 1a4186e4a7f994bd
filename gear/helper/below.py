"""Names below a directory that somebody hostile may change at any time: the root of a container.

Resolved by the kernel as if that directory were `/`, with openat2(2); no path of a container is looked up on the host.
"""

from __future__ import annotations

import posix as os

from gear.helper import syscalls
from gear.helper.failure import Failure

_MOST_LINKS = 40  # as many as the kernel follows, path_resolution(7)
# Of a path with `..` openat2(2) gives EAGAIN whenever anybody on the machine renames or mounts something meanwhile.
_TRIES = 128


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _link(name: str, directory: int) -> str | None:
    """Where the symbolic link *name* in *directory* points; None when it is no link."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


class Below:
    """The directory *descriptor* as a root."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def open(self, path: str, flags: int = os.O_PATH, *, extra: int = 0) -> int:
        """*path* inside the root, symbolic links included, magic links of procfs excluded."""
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | extra
        for _ in range(_TRIES - 1):
            try:
                return syscalls.openat2(self.descriptor, path, flags, resolve=resolve)
            except BlockingIOError:
                continue
        return syscalls.openat2(self.descriptor, path, flags, resolve=resolve)

    def destination(self, path: str, *, directory: bool = True) -> int:
        """The place to mount on at *path*, made with its parents if it is missing (config.md, "mounts")."""
        try:
            return self.open(path)
        except FileNotFoundError:
            pass
        parts, depth, links = _parts(path), 0, 0
        parent = os.dup(self.descriptor)
        while depth < len(parts):
            here = "/".join(parts[: depth + 1])
            try:
                inner = self.open(here)
            except FileNotFoundError:
                target = _link(parts[depth], parent)
                if target is not None:  # a link to what is not there yet: go on where it points
                    links += 1
                    if links > _MOST_LINKS:
                        raise Failure(f"can't mount on {path}: too many symbolic links") from None
                    parts = (parts[:depth] if target[:1] != "/" else []) + _parts(target) + parts[depth + 1 :]
                    os.close(parent)
                    parent, depth = os.dup(self.descriptor), 0
                    continue
                if depth + 1 < len(parts) or directory:
                    os.mkdir(parts[depth], 0o755, dir_fd=parent)
                else:
                    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    os.close(os.open(parts[depth], flags, 0o644, dir_fd=parent))
                inner = self.open(here)
            os.close(parent)
            parent, depth = inner, depth + 1
        return parent
