"""A pseudoterminal of the container's own (pty(7)) as its process's terminal.

Made inside the container, so that its name is found there; the master leaves through the helper.  No terminal of
the host is ever given to a container: what is typed into it would be the host's (TIOCSTI).
"""

from __future__ import annotations

import posix as os
import sys
from _stat import S_ISCHR
from fcntl import ioctl

from gear.helper import syscalls
from gear.helper.channel import TERMINAL, Channel
from gear.helper.failure import Failure, Step

# asm-generic/ioctls.h
_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_PTMX = (5, 2)
_ORDER = sys.byteorder


def make(ptmx: int, process: dict, channel: Channel, step: Step) -> int:  # type: ignore[type-arg]
    """A new terminal from *ptmx*, a descriptor of the container's /dev/pts/ptmx opened for reading and writing.

    Sends the master over *channel*; returns the terminal itself.
    """
    step.doing = "make the terminal"
    status = os.fstat(ptmx)
    if not S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(*_PTMX):
        raise Failure("can't make the terminal: the container's /dev/pts/ptmx is not that device")
    os.set_blocking(ptmx, True)  # as whoever gets the master expects it
    ioctl(ptmx, _TIOCSPTLCK, bytes(4))
    # By the master, not by a name that somebody could have replaced (TIOCGPTPEER, ioctl_tty(2)).
    peer: int = ioctl(ptmx, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    size = process.get("consoleSize")
    if size:
        rows, columns = size.get("height", 0), size.get("width", 0)
        ioctl(peer, _TIOCSWINSZ, b"".join([n.to_bytes(2, _ORDER) for n in (rows, columns, 0, 0)]))
    os.chown(peer, process["user"]["uid"], -1)
    channel.send(TERMINAL, [ptmx])
    return peer


def open_ptmx(directory: int = syscalls.AT_FDCWD, path: str = "/dev/pts/ptmx") -> int:
    """The multiplexer of the container's devpts; links are not followed."""
    resolve = syscalls.RESOLVE_NO_SYMLINKS | (
        0 if directory == syscalls.AT_FDCWD else syscalls.RESOLVE_IN_ROOT
    )
    return syscalls.openat2(directory, path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, resolve=resolve)


def control(peer: int) -> None:
    """Make *peer* the controlling terminal and the standard streams; the caller leads a new session."""
    ioctl(peer, _TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(peer, number)
    os.close(peer)
