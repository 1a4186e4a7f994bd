"""Forgetting connections that the kernel still tracks, over nfnetlink (ctnetlink).

An entry of a protocol without connections lives as long as packets come: one that was made while a container was down
would keep on leading its client past the container that runs now.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from gear.helper import netlink
from gear.helper.netlink import DUMP, ORDER, Netlink, attribute, nest, u8
from gear.helper.sysctls import read

_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK, linux/netfilter/nfnetlink.h
# linux/netfilter/nfnetlink_conntrack.h
_GET = _SUBSYSTEM << 8 | 1
_DELETE = _SUBSYSTEM << 8 | 2
_ORIGINAL = 1  # CTA_TUPLE_ORIG
_REPLY = 2
_ID = 12
_FILTER = 25
_TUPLE_IP = 1
_TUPLE_PROTO = 2
_SOURCE = {AF_INET: 1, AF_INET6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_PROTO_NUMBER = 1
_PROTO_SOURCE = 2
_PROTO_DESTINATION = 3
# Which parts of a tuple are compared: CTA_FILTER_FLAG of net/netfilter/nf_conntrack_netlink.c.
_BY_PROTOCOL = 1 << 3
_BY_DESTINATION_PORT = 1 << 5

_UDP = 17
ENOENT = 2


def forget_port(port: int) -> None:
    """Forget all that was sent by UDP to *port*, on whatever address."""
    proto = nest(
        _TUPLE_PROTO, u8(_PROTO_NUMBER, _UDP), attribute(_PROTO_DESTINATION, port.to_bytes(2, "big"))
    )
    if not _any():
        return
    for family in (AF_INET, AF_INET6):
        _forget(family, _ORIGINAL, proto, _BY_PROTOCOL | _BY_DESTINATION_PORT)


def forget_addresses(addresses: list[str]) -> None:
    """Forget all connections with one of *addresses* (of a container) at the end that answers, or that asked.

    They are picked here: asked for those of an IPv6 address, kernels give all others (ctnetlink_filter_match_tuple(),
    seen with 6.18); and to go through their table takes them longer than to tell all of it.
    """
    sources = set()
    for address in addresses:
        family = AF_INET6 if ":" in address else AF_INET
        sources.add(attribute(_SOURCE[family], inet_pton(family, address)))
    if not sources or not _any():
        return
    tracked = Netlink(netlink.NETFILTER)
    try:
        # Of every family.  First as bytes among bytes, packet by packet: there may be very many, and this process is in
        # the container's control group.
        for answer in tracked.ask(
            _GET, DUMP, bytes(4), lambda body: any(source in body for source in sources)
        ):
            entry = netlink.attributes(answer[4:])
            ends = [netlink.attributes(entry[side])[_TUPLE_IP] for side in (_ORIGINAL, _REPLY)]
            if any(attribute(*address) in sources for end in ends for address in netlink.each(end)):
                _delete(tracked, answer[:1] + bytes(3), entry[_ORIGINAL], entry[_ID])
    finally:
        tracked.close()


def _any() -> bool:
    """Whether the kernel tracks anything."""
    return read("netfilter/nf_conntrack_count") != "0"


def translated(family: int) -> list[tuple[bytes, bytes, bytes, int, bytes, bytes]]:
    """What is tracked of *family* and has ports: destination (key) and real target (value) as elements of maps have
    them (gear/helper/nftables.py), source address, source port, and what delete() takes: tuple and number."""
    tracked = Netlink(netlink.NETFILTER)
    found = []
    for answer in tracked.ask(_GET, DUMP, bytes([family, 0, 0, 0])):
        entry = netlink.attributes(answer[4:])
        asked, reply = netlink.attributes(entry[_ORIGINAL]), netlink.attributes(entry[_REPLY])
        addresses, ports = netlink.attributes(asked[_TUPLE_IP]), netlink.attributes(asked[_TUPLE_PROTO])
        target, answering = netlink.attributes(reply[_TUPLE_IP]), netlink.attributes(reply[_TUPLE_PROTO])
        if _PROTO_DESTINATION not in ports or _PROTO_SOURCE not in answering:
            continue
        source = _SOURCE[family]
        # Destinations have the numbers after those of sources.
        key = (
            addresses[source + 1] + ports[_PROTO_NUMBER][:1] + bytes(3) + ports[_PROTO_DESTINATION] + bytes(2)
        )
        value = target[source] + answering[_PROTO_SOURCE] + bytes(2)
        number = int.from_bytes(ports[_PROTO_SOURCE], "big")
        found.append((key, value, addresses[source], number, entry[_ORIGINAL], entry[_ID]))
    tracked.close()
    return found


def delete(family: int, tuple_: bytes, number: bytes) -> None:
    """Forget one that translated() has told of; it may have ended."""
    tracked = Netlink(netlink.NETFILTER)
    try:
        _delete(tracked, bytes([family, 0, 0, 0]), tuple_, number)
    finally:
        tracked.close()


def _delete(tracked: Netlink, head: bytes, tuple_: bytes, number: bytes) -> None:
    try:
        tracked.send((_DELETE, 0, head + nest(_ORIGINAL, tuple_) + attribute(_ID, number)))
    except OSError as error:
        if error.errno != ENOENT:  # it has ended by itself
            raise


def _forget(family: int, side: int, tuple_: bytes, flags: int) -> None:
    """Delete the entries of *family* whose tuple of *side* has what *tuple_* has; the kernel picks them."""
    tracked = Netlink(netlink.NETFILTER)
    try:
        head = bytes([family, 0, 0, 0])  # struct nfgenmsg
        # CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS have the numbers of the sides.
        wanted = nest(side, tuple_) + nest(_FILTER, attribute(side, flags.to_bytes(4, ORDER)))
        for answer in tracked.ask(_GET, DUMP, head + wanted):
            entry = netlink.attributes(answer[4:])
            _delete(tracked, head, entry[_ORIGINAL], entry[_ID])
    finally:
        tracked.close()
