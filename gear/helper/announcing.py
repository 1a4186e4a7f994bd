"""Telling the neighbours on a bridge which card has an address now.

Whoever had the address before stays in their tables for half a minute otherwise.  Sent from the bridge itself: a port
that is new takes nothing from its container in the first moment.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_RAW, inet_pton, socket

from gear.helper.rtnetlink import Routes, index_of, packed_mac
from gear.helper.sysctls import usable

_AF_PACKET = 17
_ARP, _IPV6 = b"\x08\x06", b"\x86\xdd"
_ICMPV6 = 58
_ALL_NODES = inet_pton(AF_INET6, "ff02::1")


def announce(routes: Routes, interfaces: list) -> socket:  # type: ignore[type-arg]
    """Have everybody on the bridges of *interfaces* (start.json) know their addresses, the host first.

    Returns the socket, to be kept: closing one of this family waits until every processor has taken notice, which takes
    as long as a start.
    """
    sender = socket(_AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)
    for item in interfaces:
        bridge = index_of(item["bridge"])
        mac = packed_mac(item["mac"])
        for address in usable(item["addresses"]):
            host = address.partition("/")[0]
            routes.forget_neighbour(bridge, host)
            frame = advertisement(mac, host) if ":" in host else arp(mac, host)
            sender.sendto(frame, (item["bridge"], 0))
    return sender


def arp(mac: bytes, address: str) -> bytes:
    """A frame that announces an IPv4 address: a request for it by who has it (RFC 5227, "ARP Announcement")."""
    packed = inet_pton(AF_INET, address)
    # Ethernet and IPv4, lengths of their addresses, a request.
    head = b"\x00\x01\x08\x00\x06\x04\x00\x01"
    return b"\xff" * 6 + mac + _ARP + head + mac + packed + bytes(6) + packed


def advertisement(mac: bytes, address: str) -> bytes:
    """A frame that announces an IPv6 address: an unsolicited neighbour advertisement (RFC 4861, section 4.4)."""
    packed = inet_pton(AF_INET6, address)
    # Override what is known; then the target, and its link-layer address as option 2.
    rest = b"\x20\0\0\0" + packed + b"\x02\x01" + mac
    length = (4 + len(rest)).to_bytes(2, "big")
    pseudo = packed + _ALL_NODES + b"\0\0" + length + b"\0\0\0" + bytes([_ICMPV6])
    checksum = _checksum(pseudo + b"\x88\0\0\0" + rest)
    header = b"\x60\0\0\0" + length + bytes([_ICMPV6, 255]) + packed + _ALL_NODES
    return b"\x33\x33\0\0\0\x01" + mac + _IPV6 + header + b"\x88\0" + checksum + rest


def _checksum(data: bytes) -> bytes:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total = sum([int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2)])
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")
