"""Telling the neighbours which card has an address now, and asking them.

Whoever had the address before stays in their tables for half a minute otherwise.  Sent from the bridge itself: a port
that is new takes nothing from its container in the first moment.  A macvlan takes it at once, and nobody but its own
end gets to its neighbours.
"""

from __future__ import annotations

import posix as os
from _socket import AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_RAW, inet_pton, socket

from gear.helper.rtnetlink import Routes, index_of, packed_mac
from gear.helper.sysctls import usable

_AF_PACKET = 17
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_ARP, _IPV6 = b"\x08\x06", b"\x86\xdd"
# Ethernet and IPv4, lengths of their addresses, a request.
_ARP_HEAD = b"\x00\x01\x08\x00\x06\x04\x00\x01"
_ICMPV6 = 58
_ALL_NODES = inet_pton(AF_INET6, "ff02::1")


def announce(routes: Routes, interfaces: list) -> socket:  # type: ignore[type-arg]
    """Have everybody on the bridges of *interfaces* (start.json) know their addresses, the host first.

    Returns the socket, to be kept: closing one of this family waits until every processor has taken notice, which takes
    as long as a start.
    """
    sender = socket(_AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)
    for item in interfaces:
        if "mode" in item:
            continue
        bridge = index_of(item["bridge"])
        mac = packed_mac(item["mac"])
        for address in usable(item["addresses"]):
            host = address.partition("/")[0]
            routes.forget_neighbour(bridge, host)
            sender.sendto(_frame(mac, host), (item["bridge"], 0))
    return sender


def announce_from(interface: str, addresses: list[str]) -> None:
    """Have everybody on a macvlan know the *addresses* of *interface*, in whose network namespace this is called."""
    with_own = socket(_AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)
    with_own.bind((interface, 0))
    # What it really has: with the mode passthru that is its parent's.
    mac = with_own.getsockname()[4]
    for address in addresses:
        with_own.send(_frame(mac, address.partition("/")[0]))
    with_own.close()


def owner_of(address: str, link: str, patience_s: float) -> str:
    """The card that answers to the IPv4 *address* behind *link* within *patience_s*; empty when none does."""
    from select import select
    from time import monotonic

    mac, packed = b"\x02" + os.urandom(5), inet_pton(AF_INET, address)
    asker = socket(_AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)
    # Of all protocols: what is for one alone, a bridge takes from its port before.
    asker.bind((link, _ETH_P_ALL))
    # A probe, as RFC 5227 has it: from no address.
    asker.send(b"\xff" * 6 + mac + _ARP + _ARP_HEAD + mac + bytes(4) + bytes(6) + packed)
    end = monotonic() + patience_s
    found = ""
    while not found and select([asker], [], [], max(0, end - monotonic()))[0]:
        frame, (_, _, kind, *_) = asker.recvfrom(64)
        # A socket of all protocols is shown what this host sends as well: its gateway, say, that asks for a container.
        if kind != _PACKET_OUTGOING and frame[12:14] == _ARP and frame[28:32] == packed:
            found = ":".join([f"{byte:02x}" for byte in frame[22:28]])
    asker.close()
    return found


def _frame(mac: bytes, address: str) -> bytes:
    """What announces *address*, of either family."""
    return advertisement(mac, address) if ":" in address else arp(mac, address)


def arp(mac: bytes, address: str) -> bytes:
    """A frame that announces an IPv4 address: a request for it by who has it (RFC 5227, "ARP Announcement")."""
    packed = inet_pton(AF_INET, address)
    return b"\xff" * 6 + mac + _ARP + _ARP_HEAD + mac + packed + bytes(6) + packed


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
