"""The line between the helper and the payload's process while the container is set up.

A pair of sequenced-packet sockets.  The payload's end is close-on-exec, so end of file after the EXEC message
means that execve(2) succeeded, and end of file without it that the process died.  The `socket` module would cost
more to import than all of the set-up; its C half has what is needed.
"""

from __future__ import annotations

import sys
from _socket import (
    AF_UNIX,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)

EXEC = b"exec"
HOOKS = b"hooks"  # mounts are made: the hooks of the runtime's namespaces are due; answered by GO
GO = b"go"
TERMINAL = b"terminal"  # with the master of the new terminal
LISTENER = b"listener"  # with the descriptor that gets seccomp's notifications
CREATED = b"created"  # all is ready, and waits to be started
PID = b"pid "  # from a process between: the pid of the container's first process
FAILED = b"failed "  # then the exit status, a blank, and the sentence
MOUNT = b"mount "  # then the name of the file system of which a detached mount is wanted
DESCRIPTORS = b"descriptors"

_INT = 4
_MOST = 253  # SCM_MAX_FD, linux/socket.h


class Channel:
    """One end of the pair."""

    def __init__(self, end) -> None:  # type: ignore[no-untyped-def]
        self._end = end

    def fileno(self) -> int:
        """The socket's descriptor."""
        number: int = self._end.fileno()
        return number

    def send(self, message: bytes, descriptors: tuple[int, ...] | list[int] = ()) -> None:
        """Send *message*; descriptors go along, as many packets as they need."""
        for start in range(0, len(descriptors) or 1, _MOST):
            part = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in descriptors[start : start + _MOST])
            self._end.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, part)] if part else [])

    def receive(self) -> tuple[bytes, list[int]]:
        """The next message and its descriptors; an empty message means end of file."""
        message, ancillary, flags, _ = self._end.recvmsg(65536, _MOST * _INT + 64, MSG_CMSG_CLOEXEC)
        if flags & MSG_CTRUNC:  # unix(7): the rest is lost, and waiting for it would never end
            raise OSError(24, "too many open files to receive descriptors")
        descriptors = [
            int.from_bytes(data[start : start + _INT], sys.byteorder)
            for _, _, data in ancillary
            for start in range(0, len(data) - len(data) % _INT, _INT)
        ]
        return message, descriptors

    def receive_descriptors(self, count: int) -> list[int]:
        """*count* descriptors, or the OSError that the other side is gone."""
        descriptors: list[int] = []
        while len(descriptors) < count:
            message, more = self.receive()
            if not message or not more:
                raise ConnectionResetError(104, "the helper has died")
            descriptors += more
        return descriptors

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def pair() -> tuple[Channel, Channel]:
    """Both ends of a new channel, close-on-exec."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    return Channel(ours), Channel(theirs)
