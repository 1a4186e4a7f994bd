"""Files below the root of a container that runs, reached from the host without ever leaving that root.

Not for the host's own files (gear/files.py) nor for image layers, which nobody changes meanwhile (gear/view.py).
What is below the root belongs to the container, which may exchange directories for links at any moment.  So nothing
is looked up twice: openat2(2) resolves each path as if the root were `/`, without magic links of procfs, and what
came out is a descriptor that is looked at before it is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from gear.errors import GearError
from gear.helper import syscalls

# As in gear/helper/below.py.
_TRIES = 128
ACCOUNTS_LIMIT = 4 << 20
# For find(): no link at all, and nothing above (RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, linux/openat2.h).
INSIDE = 0x08 | syscalls.RESOLVE_NO_SYMLINKS


@contextmanager
def opened(descriptor: int) -> Iterator[int]:
    """Close *descriptor* in the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find(
    root: int, path: str | bytes, flags: int = os.O_PATH, *, resolve: int = syscalls.RESOLVE_IN_ROOT
) -> int:
    """A descriptor of *path* below *root*; links are followed inside, the caller closes it."""
    text = os.fsdecode(path)
    for _ in range(_TRIES):
        try:
            return syscalls.openat2(root, text, flags, resolve=resolve | syscalls.RESOLVE_NO_MAGICLINKS)
        except BlockingIOError:
            continue
    raise OSError(errno.EAGAIN, "the path keeps changing", path)


def reopen(place: int, flags: int) -> int:
    """Open what an O_PATH descriptor refers to.  Only for what its type was looked at: opening a device acts."""
    return os.open(f"/proc/self/fd/{place}", flags | os.O_CLOEXEC | os.O_NOCTTY)


def root_of(pid: int) -> int:
    """The root directory of a process, as a descriptor that the caller closes."""
    return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def read_file(root: int, path: str, limit: int = ACCOUNTS_LIMIT) -> bytes | None:
    """The content of a regular file of the container; None when there is no such file.

    Raises GearError for anything else by that name, and for more than *limit* bytes.
    """
    try:
        place = find(root, path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GearError(f"Can't read {path!r} of the container: {error.strerror}.") from error
    with opened(place):
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise GearError(f"{path!r} of the container is not a regular file.")
        with open(reopen(place, os.O_RDONLY), "rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise GearError(f"{path!r} of the container is larger than {limit} bytes.")
    return data
