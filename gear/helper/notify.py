"""Telling the service manager how it goes: sd_notify(3)."""

from __future__ import annotations

import posix as os
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socket

_MOST = 253  # SCM_MAX_FD, linux/socket.h


def notify(state: str, descriptors: list[int] | None = None) -> None:
    """Tell the service manager, as sd_notify(3) does; it takes 253 descriptors at a time."""
    address = os.environ.get(b"NOTIFY_SOCKET", b"")
    if not address:
        return
    if address.startswith(b"@"):  # in the abstract namespace, unix(7)
        address = b"\0" + address[1:]
    sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    message = state.encode(errors="surrogateescape")
    if descriptors is None:
        sender.sendto(message, address)
    while descriptors:
        part = b"".join([number.to_bytes(4, sys.byteorder) for number in descriptors[:_MOST]])
        sender.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, part)], 0, address)
        descriptors = descriptors[_MOST:]
    sender.close()
