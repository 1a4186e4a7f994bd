"""Sockets that PID 1 listens on and the payload is to have: socket activation (sd_listen_fds(3)) through the container.

The unit's sockets come to the helper among others, in an order of PID 1's; the payload finds them from descriptor 3 on,
in the order in which they were asked for, and nothing else.
"""

from __future__ import annotations

import posix as os
from _socket import SOCK_DGRAM, SOCK_STREAM, socket

from gear.helper.failure import Failure

# What PID 1 calls them (FileDescriptorName= of the socket unit).
PASSED = "payload"
_KINDS = {SOCK_STREAM: "tcp", SOCK_DGRAM: "udp"}
_FIRST = 3  # SD_LISTEN_FDS_START


def find(wanted: list, unit: str) -> list[tuple[int, str]]:  # type: ignore[type-arg]
    """The descriptors of *wanted* (start.json's `descriptors`), each with its name for the payload.

    Raises Failure when PID 1 has not passed one of them; *unit* is that of the sockets.
    """
    environment, given = os.environ, []
    if environment.get(b"LISTEN_PID") == str(os.getpid()).encode():
        names = environment.get(b"LISTEN_FDNAMES", b"").decode(errors="replace").split(":")
        given = [_FIRST + number for number, name in enumerate(names) if name == PASSED]
    found = []
    for port in wanted:
        mine = [(number, port["name"]) for number in given if _is_for(number, port)]
        if not mine:
            from gear.helper.ports import shown

            raise Failure(
                f"can't pass port {shown(port)} into the container: systemd does not listen on it; "
                f"see systemctl status {unit}"
            )
        found += mine
        given = [number for number in given if number not in [taken for taken, _ in mine]]
    return found


def _is_for(descriptor: int, port: dict) -> bool:  # type: ignore[type-arg]
    """Whether the socket *descriptor* is one of *port*."""
    looked_at = socket(fileno=descriptor)
    try:
        address, number = looked_at.getsockname()[:2]
        return (
            (_KINDS.get(looked_at.type), number) == (port["protocol"], port["port"])
            # One for every address may be two sockets, each of a family.
            and (address == port["address"] or not port["address"])
        )
    finally:
        looked_at.detach()


def hand_over(passed: list[tuple[int, str]], environment: dict[bytes, bytes]) -> None:
    """In the process that becomes the payload: put the descriptors where it looks, and say so in its environment."""
    count = len(passed)
    # What is in those places is PID 1's too, so nothing that is needed; but perhaps another of these.
    copies = [os.dup(number) for number, _ in passed]
    for number, copy in enumerate(copies):
        os.dup2(copy, _FIRST + number)
    environment[b"LISTEN_FDS"] = str(count).encode()
    environment[b"LISTEN_PID"] = str(os.getpid()).encode()
    environment[b"LISTEN_FDNAMES"] = ":".join([name for _, name in passed]).encode()
