"""Links, addresses and routes over rtnetlink(7), as far as containers and their bridges need them.

Not for policy: which names and addresses there are is the caller's.  Each call raises OSError (netlink.Refused) with
the kernel's own words.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, if_nametoindex, inet_pton

from gear.helper import netlink
from gear.helper.netlink import (
    APPEND,
    CREATE,
    DUMP,
    EXCL,
    ORDER,
    REPLACE,
    Netlink,
    attribute,
    nest,
    text,
    u8,
    u32,
)

# linux/rtnetlink.h
_NEWLINK = 16
_DELLINK = 17
_GETLINK = 18
_NEWADDR = 20
_DELADDR = 21
_GETADDR = 22
_NEWROUTE = 24
_NEWNEIGH = 28
_DELNEIGH = 29
# linux/neighbour.h
_NDA_DST = 1
_NDA_LLADDR = 2
_NTF_SELF = 0x02
_NUD_STATIC = 0xC0  # NUD_NOARP | NUD_PERMANENT
_AF_BRIDGE = 7
_RT_TABLE_MAIN = 254
_RT_TABLE_LOCAL = 255
_RTPROT_STATIC = 4
_RT_SCOPE_UNIVERSE = 0
_RTN_UNICAST = 1
_RTN_LOCAL = 2
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
# linux/if_link.h
_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_NET_NS_PID = 19
_IFLA_IFALIAS = 20
_IFLA_AF_SPEC = 26
_IFLA_NET_NS_FD = 28
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_INFO_SLAVE_KIND = 4
_IFLA_INFO_SLAVE_DATA = 5
_IFLA_BRPORT_MODE = 4  # hairpin
_IFLA_INET6_ADDR_GEN_MODE = 8
_ADDR_GEN_MODE_NONE = 1
_VETH_INFO_PEER = 1  # linux/veth.h
# linux/if_link.h
_IFLA_MACVLAN_MODE = 1
_MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_IFLA_VXLAN_ID = 1
_IFLA_VXLAN_LINK = 3
_IFLA_VXLAN_LOCAL = 4
_IFLA_VXLAN_PORT = 15  # in network order
_IFLA_VXLAN_LOCAL6 = 17
# linux/if_addr.h
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_FLAGS = 8
_IFA_F_NODAD = 0x02
_IFA_F_PERMANENT = 0x80
_IFF_UP = 0x1
# No address of its own: a port of a bridge needs none, and looking for others that have it takes time.
_SILENT = nest(_IFLA_AF_SPEC, nest(AF_INET6, u8(_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE)))
# Behind the routes that the kernel itself makes for ::1.
_LOOPBACK_METRIC = 4096

EEXIST = 17
ENODEV = 19
ENOENT = 2


def of_process(pid: int) -> tuple[int, int]:
    """The network namespace of the process *pid*, for add_veth() and add_macvlan()."""
    return _IFLA_NET_NS_PID, pid


def of_descriptor(descriptor: int) -> tuple[int, int]:
    """The network namespace that *descriptor* stands for, for add_veth() and add_macvlan()."""
    return _IFLA_NET_NS_FD, descriptor


def packed_mac(mac: str) -> bytes:
    """The six bytes of 02:00:00:00:00:01."""
    return bytes([int(part, 16) for part in mac.split(":")])


def _parse(address: str) -> tuple[int, bytes]:
    """Family and bytes of an address without a prefix."""
    family = AF_INET6 if ":" in address else AF_INET
    return family, inet_pton(family, address)


def _link(index: int = 0, *, up: bool = False) -> bytes:
    """struct ifinfomsg, linux/rtnetlink.h: family, type, index, flags and which of them to change."""
    flags = _IFF_UP if up else 0
    return bytes(4) + index.to_bytes(4, ORDER) + flags.to_bytes(4, ORDER) + flags.to_bytes(4, ORDER)


def _port(name: str, bridge: int) -> tuple[int, int, bytes]:
    """The request that makes the link *name* a port of *bridge*, and up."""
    return _NEWLINK, 0, _link(up=True) + text(_IFLA_IFNAME, name) + _SILENT + u32(_IFLA_MASTER, bridge)


class Routes:
    """A socket of rtnetlink, in the network namespace of the process that makes it."""

    def __init__(self) -> None:
        self._netlink = Netlink(netlink.ROUTE)

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def add_veth(
        self, host: str, bridge: int, peer: str, place: tuple[int, int], *, mac: str, mtu: int | None
    ) -> None:
        """A pair: *host* here, up and a port of the link *bridge*, and *peer* with *mac* in the namespace *place*
        (of_process() or of_descriptor())."""
        size = u32(_IFLA_MTU, mtu) if mtu else b""
        other = [text(_IFLA_IFNAME, peer), attribute(_IFLA_ADDRESS, packed_mac(mac)), size]
        other.append(u32(*place))
        pair = nest(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER | netlink.NESTED, _link() + b"".join(other)))
        info = nest(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"), pair)
        self._netlink.send(
            (_NEWLINK, CREATE | EXCL, _link() + text(_IFLA_IFNAME, host) + size + info), _port(host, bridge)
        )

    def add_ifb(self, name: str, alias: str) -> None:
        """A device that gives back what is sent by it as if it came from where it came from; up, without addresses."""
        info = nest(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "ifb"))
        called = text(_IFLA_IFNAME, name)
        ready = _link(up=True) + called + _SILENT + attribute(_IFLA_IFALIAS, alias.encode())
        self._netlink.send((_NEWLINK, CREATE | EXCL, _link() + called + info), (_NEWLINK, 0, ready))

    def add_macvlan(
        self, parent: int, mode: str, name: str, place: tuple[int, int], *, mac: str, mtu: int | None
    ) -> None:
        """A macvlan of the link *parent*, called *name*, with *mac*, in the namespace *place*; down."""
        kind = nest(_IFLA_INFO_DATA, u32(_IFLA_MACVLAN_MODE, _MACVLAN_MODES[mode]))
        info = nest(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "macvlan"), kind)
        body = _link() + text(_IFLA_IFNAME, name) + u32(_IFLA_LINK, parent) + u32(*place)
        body += attribute(_IFLA_ADDRESS, packed_mac(mac)) + (u32(_IFLA_MTU, mtu) if mtu else b"")
        self._netlink.send((_NEWLINK, CREATE | EXCL, body + info))

    def add_vxlan(
        self, name: str, bridge: int, vni: int, *, port: int, local: str, parent: int, mtu: int | None
    ) -> None:
        """The VXLAN *vni*, up and a port of the link *bridge*.  *local* is the address that it sends from, `::` or
        `0.0.0.0` if the kernel chooses one, and *parent* the link that it leaves by, or 0."""
        family, own = _parse(local)
        kind = [u32(_IFLA_VXLAN_ID, vni), attribute(_IFLA_VXLAN_PORT, port.to_bytes(2, "big"))]
        kind.append(attribute(_IFLA_VXLAN_LOCAL6 if family == AF_INET6 else _IFLA_VXLAN_LOCAL, own))
        kind += [u32(_IFLA_VXLAN_LINK, parent)] if parent else []
        info = nest(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "vxlan"), nest(_IFLA_INFO_DATA, *kind))
        size, word = u32(_IFLA_MTU, mtu) if mtu else b"", text(_IFLA_IFNAME, name)
        self._netlink.send(
            (_NEWLINK, CREATE | EXCL, _link() + word + size + info),
            (_NEWLINK, 0, _link() + word + _SILENT),  # it has a carrier as soon as it is up
            _port(name, bridge),
        )

    def flood_to(self, index: int, hosts: list[str]) -> None:
        """Have the VXLAN *index* send to each of *hosts* what is for everybody, or for who knows whom."""
        # struct ndmsg as below, and all zeros for the address of the card.
        head = bytes([_AF_BRIDGE, 0, 0, 0]) + index.to_bytes(4, ORDER)
        head += _NUD_STATIC.to_bytes(2, ORDER) + bytes([_NTF_SELF, 0]) + attribute(_NDA_LLADDR, bytes(6))
        requests = [
            (_NEWNEIGH, CREATE | APPEND, head + attribute(_NDA_DST, _parse(host)[1])) for host in hosts
        ]
        if requests:
            self._netlink.send(*requests)

    def kind_and_mtu(self, name: str) -> tuple[str, int] | None:
        """The kind of the link *name*, empty for a card, and its MTU; None when there is none."""
        try:
            (answer,) = self._netlink.ask(_GETLINK, 0, _link() + text(_IFLA_IFNAME, name))
        except OSError as error:
            if error.errno != ENODEV:
                raise
            return None
        found = netlink.attributes(answer[16:])
        kind = netlink.attributes(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
        return kind.rstrip(b"\0").decode(), int.from_bytes(found[_IFLA_MTU], ORDER)

    def add_bridge(self, name: str, mac: str) -> None:
        """A bridge with *mac*, which it keeps whatever its ports have; down."""
        info = nest(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge"))
        body = _link() + text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, packed_mac(mac)) + info
        self._netlink.send((_NEWLINK, CREATE | EXCL, body))

    def set_up(self, index: int, *, mtu: int | None = None, alias: str | None = None) -> None:
        """Bring up the link *index*, with what is given."""
        size = u32(_IFLA_MTU, mtu) if mtu else b""
        words = attribute(_IFLA_IFALIAS, alias.encode()) if alias is not None else b""
        self._netlink.send((_NEWLINK, 0, _link(index, up=True) + size + words))

    def set_port(self, index: int, bridge: int, *, hairpin: bool, mtu: int | None = None) -> None:
        """Make the link *index* an active port of *bridge*, with *mtu* if that is given; with *hairpin* it may get back
        what it has sent."""
        size = u32(_IFLA_MTU, mtu) if mtu else b""
        self._netlink.send((_NEWLINK, 0, _link(index, up=True) + u32(_IFLA_MASTER, bridge) + size))
        data = nest(_IFLA_INFO_SLAVE_DATA, u8(_IFLA_BRPORT_MODE, int(hairpin)))
        info = nest(_IFLA_LINKINFO, text(_IFLA_INFO_SLAVE_KIND, "bridge"), data)
        self._netlink.send((_NEWLINK, 0, _link(index) + info))

    def delete_link(self, name: str) -> bool:
        """Remove the link *name*, and with a veth its peer; whether it was there."""
        try:
            self._netlink.send((_DELLINK, 0, _link() + text(_IFLA_IFNAME, name)))
        except OSError as error:
            if error.errno != ENODEV:
                raise
            return False
        return True

    def configure(self, index: int, addresses: list[str], gateways: list[str]) -> None:
        """Bring up the link *index* and give it addresses (ADDRESS/PREFIX) and default routes, all at once."""
        requests = [(_NEWLINK, 0, _link(index, up=True))]
        requests += [(_NEWADDR, CREATE | REPLACE, _address(index, address)) for address in addresses]
        for gateway in gateways:
            family, packed = _parse(gateway)
            body = _route(family, 0, _RT_TABLE_MAIN, _RTN_UNICAST)
            body += attribute(_RTA_GATEWAY, packed) + u32(_RTA_OIF, index)
            requests.append((_NEWROUTE, CREATE | REPLACE, body))
        self._netlink.send(*requests)

    def forget_neighbour(self, index: int, address: str) -> None:
        """Forget which card behind the link *index* has had *address*; it may not be known."""
        family, packed = _parse(address)
        # struct ndmsg, linux/neighbour.h: family, padding, index, state, flags, type.
        body = bytes([family, 0, 0, 0]) + index.to_bytes(4, ORDER) + bytes(4) + attribute(_NDA_DST, packed)
        try:
            self._netlink.send((_DELNEIGH, 0, body))
        except OSError as error:
            if error.errno != ENOENT:
                raise

    def addresses(self, index: int) -> set[tuple[bytes, int]]:
        """The addresses that were given to the link *index*: bytes and prefix.  Not those it has made itself."""
        found = set()
        for answer in self._netlink.ask(_GETADDR, DUMP, bytes(8)):
            if int.from_bytes(answer[4:8], ORDER) != index:
                continue
            had = netlink.attributes(answer[8:])
            address = had.get(_IFA_LOCAL) or had.get(_IFA_ADDRESS, b"")
            if not (len(address) == 16 and address[:2] == b"\xfe\x80"):
                found.add((address, answer[1]))
        return found

    def set_addresses(self, index: int, wanted: list[str]) -> None:
        """Give the link *index* the addresses *wanted* (ADDRESS/PREFIX) and take all others from it."""
        keep = {(_parse(item.partition("/")[0])[1], int(item.partition("/")[2])) for item in wanted}
        # First of all: with a subnet's first address its others go, too.
        for address, prefix in self.addresses(index) - keep:
            self._netlink.send((_DELADDR, 0, _packed_address(index, address, prefix)))
        if wanted:
            self._netlink.send(*[(_NEWADDR, CREATE | REPLACE, _address(index, item)) for item in wanted])

    def route_loopback(self, index: int) -> None:
        """Take ::1 for this host's own on packets that come from the link *index*, too.

        None with that address gets so far from a wire (ip6_rcv_core() drops them); but the answers to what was sent
        from ::1 and translated get it back there, and the kernel looks for a route of the link that they came from.
        """
        family, packed = _parse("::1")
        body = _route(family, 128, _RT_TABLE_LOCAL, _RTN_LOCAL)
        body += attribute(_RTA_DST, packed) + u32(_RTA_OIF, index) + u32(_RTA_PRIORITY, _LOOPBACK_METRIC)
        self._netlink.send((_NEWROUTE, CREATE | REPLACE, body))


def _address(index: int, address: str) -> bytes:
    """The body of a message about ADDRESS/PREFIX of the link *index*."""
    host, _, prefix = address.partition("/")
    return _packed_address(index, _parse(host)[1], int(prefix))


def _packed_address(index: int, packed: bytes, prefix: int) -> bytes:
    family = AF_INET6 if len(packed) == 16 else AF_INET
    # struct ifaddrmsg, linux/if_addr.h: family, prefix, flags, scope, index.
    body = bytes([family, prefix, 0, _RT_SCOPE_UNIVERSE]) + index.to_bytes(4, ORDER)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if family == AF_INET6:
        # gear gives each address once: to look first whether another host has it would take a second.
        body += u32(_IFA_FLAGS, _IFA_F_NODAD | _IFA_F_PERMANENT)
    return body


def _route(family: int, prefix: int, table: int, kind: int) -> bytes:
    """struct rtmsg, linux/rtnetlink.h: family, length of destination and source, TOS, table, protocol, scope, type."""
    return bytes([family, prefix, 0, 0, table, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, kind]) + bytes(4)


def index_of(name: str) -> int:
    """The number of the link *name*, or 0 when there is none."""
    try:
        return if_nametoindex(name)
    except OSError:
        return 0
