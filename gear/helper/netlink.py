"""Netlink: messages, attributes, and one socket that asks the kernel and tells its refusals.

Not for what the messages mean; see gear/helper/rtnetlink.py, nftables.py and conntrack.py.  Numbers of a header are
the machine's, as linux/netlink.h has them; what netfilter puts into attributes is in network order, which the callers
see to.
"""

from __future__ import annotations

import posix as os
import sys
from _socket import SOCK_CLOEXEC, SOCK_RAW, socket

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Answer = TypeVar("Answer")

ORDER = sys.byteorder

# linux/netlink.h
ROUTE = 0  # NETLINK_ROUTE
NETFILTER = 12  # NETLINK_NETFILTER
REQUEST = 0x1
ACK = 0x4
DUMP = 0x300
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
REPLACE = 0x100
EXCL = 0x200
CREATE = 0x400
APPEND = 0x800
NESTED = 0x8000

_AF_NETLINK = 16
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_HEADER = 16
_ERROR = 2
_DONE = 3
_CAPPED = 0x100
_ACK_TLVS = 0x200
_ATTR_MSG = 1  # NLMSGERR_ATTR_MSG
_BUFFER = 1 << 17
_EAGAIN = 11
_ATTEMPTS = 1000  # which take less than a second


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(data)
    return length.to_bytes(2, ORDER) + kind.to_bytes(2, ORDER) + data + bytes(-length % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NESTED, b"".join(attributes))


def u8(kind: int, number: int) -> bytes:
    """An attribute of one byte."""
    return attribute(kind, number.to_bytes(1, ORDER))


def u32(kind: int, number: int) -> bytes:
    """An attribute of 32 bits in the machine's order."""
    return attribute(kind, number.to_bytes(4, ORDER))


def text(kind: int, string: str) -> bytes:
    """An attribute with a NUL-terminated string."""
    return attribute(kind, string.encode() + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in *data* by kind; of several of one kind the last."""
    return dict(each(data))


def each(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes in *data* in their order; a damaged rest is left out."""
    found, place = [], 0
    while place + 4 <= len(data):
        length = int.from_bytes(data[place : place + 2], ORDER)
        kind = int.from_bytes(data[place + 2 : place + 4], ORDER) & 0x3FFF
        if length < 4:
            break
        found.append((kind, data[place + 4 : place + length]))
        place += length + (-length % 4)
    return found


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """A whole message; *sequence* is how its answer is known."""
    length = _HEADER + len(body)
    head = length.to_bytes(4, ORDER) + kind.to_bytes(2, ORDER) + (flags | REQUEST).to_bytes(2, ORDER)
    return head + sequence.to_bytes(4, ORDER) + bytes(4) + body + bytes(-length % 4)


class Refused(OSError):
    """The kernel has refused a message: errno as ever, `strerror` with the kernel's own words where it has any.

    *index* is the number of the message, of several that were sent at once.
    """

    index = 0


def _refusal(flags: int, body: bytes) -> Refused | None:
    """What an NLMSG_ERROR says; None when it is an acknowledgement."""
    code = -int.from_bytes(body[:4], ORDER, signed=True)
    if code == 0:
        return None
    why = os.strerror(code)
    if flags & _ACK_TLVS:
        copied = _HEADER
        if not flags & _CAPPED:
            copied = int.from_bytes(body[4:8], ORDER)
        words = attributes(body[4 + copied + (-copied % 4) :]).get(_ATTR_MSG, b"").rstrip(b"\0")
        if words:
            why = f"{why}: {words.decode(errors='replace')}"
    return Refused(code, why)


def settled(attempt: Callable[[], Answer | None]) -> Answer:
    """What *attempt* returns once it is not None; raises Refused when it never is."""
    for _ in range(_ATTEMPTS):
        found = attempt()
        if found is not None:
            return found
    raise Refused(_EAGAIN, "what was asked for changes all the time")


class Netlink:
    """A netlink socket of one protocol, in the network namespace of the process that makes it."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket(_AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, *requests: tuple[int, int, bytes]) -> None:
        """Send requests (type, flags, body) at once, which the kernel serves in their order; raises Refused for the
        first that it refuses.  Those after it are carried out all the same, unless they are a batch."""
        packet = b"".join(
            [message(kind, flags | ACK, body, index) for index, (kind, flags, body) in enumerate(requests)]
        )
        self._socket.send(packet)
        refused: Refused | None = None
        waiting = len(requests)
        while waiting:
            for kind, flags, index, body in self._receive():
                if kind == _ERROR:
                    waiting -= 1
                    error = _refusal(flags, body)
                    if error is not None and refused is None:
                        error.index, refused = index, error
        if refused is not None:
            raise refused

    def batch(self, begin: bytes, requests: list[tuple[int, int, bytes]], end: bytes) -> None:
        """Send requests between *begin* and *end*, whole messages that are not acknowledged: all are carried out, or
        none, and Refused is raised."""
        for index, (kind, flags, body) in enumerate(requests):
            begin += message(kind, flags | ACK, body, index)
        self._socket.send(begin + end)
        refused: Refused | None = None
        waiting = len(requests)
        while waiting > 0:
            for kind, flags, index, body in self._receive():
                if kind != _ERROR:
                    continue
                waiting -= 1
                error = _refusal(flags, body)
                if error is None:
                    continue
                error.index = index
                if index >= len(requests):  # of the batch as a whole: there are no further answers
                    raise error
                refused = refused or error
        if refused is not None:
            raise refused

    def ask(
        self, kind: int, flags: int, body: bytes, keep: Callable[[bytes], bool] | None = None
    ) -> list[bytes]:
        """The bodies of the answers to one request, with DUMP of all, with *keep* those of which it is true.

        A dump that was interrupted is made again: of what changes while the kernel tells something may be missing, or
        be there twice.  Raises Refused.
        """
        return settled(lambda: self._ask(kind, flags, body, keep))

    def _ask(
        self, kind: int, flags: int, body: bytes, keep: Callable[[bytes], bool] | None
    ) -> list[bytes] | None:
        """As ask(); None for a dump that was interrupted."""
        self._socket.send(message(kind, flags, body))
        answers: list[bytes] = []
        whole = True
        while True:
            for answered, how, _, part in self._receive():
                if answered == _ERROR:
                    error = _refusal(how, part)
                    if error is not None:
                        raise error
                    return answers
                whole = whole and not how & _INTERRUPTED
                if answered == _DONE:
                    # It ends with the number of an error as well, but with nothing of the request.
                    error = _refusal(0, part)
                    if error is not None:
                        raise error
                    return answers if whole else None
                if keep is None or keep(part):
                    answers.append(part)
            if not flags & DUMP:
                return answers

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """Type, flags, sequence number and body of each message of the next packet."""
        packet = self._socket.recv(_BUFFER)
        found, place = [], 0
        while place + _HEADER <= len(packet):
            length = int.from_bytes(packet[place : place + 4], ORDER)
            kind = int.from_bytes(packet[place + 4 : place + 6], ORDER)
            flags = int.from_bytes(packet[place + 6 : place + 8], ORDER)
            sequence = int.from_bytes(packet[place + 8 : place + 12], ORDER)
            found.append((kind, flags, sequence, packet[place + _HEADER : place + length]))
            place += length + (-length % 4)
        return found
