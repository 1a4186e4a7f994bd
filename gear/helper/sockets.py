"""Ending TCP connections of a network namespace from outside, over sock_diag(7)."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6

from gear.helper.netlink import ORDER, Netlink

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_DESTROY = 21  # SOCK_DESTROY, linux/sock_diag.h
_TCP = 6
_NO_COOKIE = b"\xff" * 8  # INET_DIAG_NOCOOKIE


def end_connection(source: bytes, source_port: int, destination: bytes, port: int) -> None:
    """End the connection from *source* to *destination* (packed addresses): its program hears ECONNABORTED at once.

    Nothing happens if there is none, or if the kernel was built without this (CONFIG_INET_DIAG_DESTROY).
    """
    family = AF_INET6 if len(source) == 16 else AF_INET
    # struct inet_diag_req_v2, linux/inet_diag.h: family, protocol, two bytes, states, and the socket: both ports, both
    # addresses, interface, cookie.
    head = bytes([family, _TCP, 0, 0]) + b"\xff" * 4
    ends = source_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    ends += source.ljust(16, b"\0") + destination.ljust(16, b"\0")
    diagnosis = Netlink(_SOCK_DIAG)
    try:
        diagnosis.send((_DESTROY, 0, head + ends + (0).to_bytes(4, ORDER) + _NO_COOKIE))
    except OSError:
        pass  # it gets a reset as soon as it sends anything
    finally:
        diagnosis.close()
