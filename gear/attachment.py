"""How a container is attached to its networks: the member `network` of start.json, MAC addresses, names of interfaces,
and what it calls others (hosts).

Pure: what is chosen (addresses, free ports) is in the specification already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from gear.definition import Definition
from gear.limits import DIRECTIONS, OUT, Limits
from gear.naming import HOST_GATEWAY, Naming
from gear.network import FD, NAT, Interface, Network, Port
from gear.underlay import MACVLAN

LOOPBACK_LINES = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

# What waits at a rate: so much time of it, and at least a few packets.  More would be delay.
_QUEUE_S = 0.05
_LEAST_QUEUE = 32 << 10
# The kernel counts them in 32 bits.
_MOST_BYTES = 0xFFFFFFFF


def mac_address(container: str, network: str) -> str:
    """A MAC address that is the same at every start: unicast, and locally administered (IEEE 802)."""
    data = bytearray(hashlib.sha256(f"{container}\0{network}".encode()).digest()[:6])
    data[0] = data[0] & 0xFC | 0x02
    return data.hex(":")


def host_end(container: str, interface: str) -> str:
    """What the host's end of a container's interface is called."""
    return "ve" + hashlib.sha256(f"{container}\0{interface}".encode()).hexdigest()[:12]


def rate_device(container: str, number: int) -> str:
    """What the device is called by which all goes that leaves the container's interface *number*: at a rate."""
    return f"gi{hashlib.sha256(container.encode()).hexdigest()[:11]}{number:02x}"


def _rates(container: str, number: int, limits: Limits) -> dict[str, Any]:
    """`limits` of an interface: bytes per second, bytes at once and bytes that wait, for each direction."""
    found: dict[str, Any] = {}
    for way in DIRECTIONS:
        rate = limits.rate(way)
        if rate is not None:
            burst = limits.burst(way)
            waiting = burst + max(_LEAST_QUEUE, int(rate / 8 * _QUEUE_S))
            found[way] = {"rate": rate // 8, "burst": burst, "queue": min(_MOST_BYTES, waiting)}
    if OUT in found:
        found["device"] = rate_device(container, number)
    return found


def way_out(network: Network, networks: Mapping[str, Definition]) -> Interface | None:
    """The interface with the default routes, and the ports: the first on a network that is not internal."""
    return next((item for item in network.interfaces if not networks[item.network].internal), None)


def targets(port: Port, interface: Interface) -> list[str]:
    """The container's addresses that *port* leads to."""
    found = ((4, interface.ip), (6, interface.ip6))
    return [address for version, address in found if address is not None and version in port.families()]


def start_member(
    container: str, network: Network, networks: Mapping[str, Definition], naming: Naming
) -> dict[str, Any]:
    """What the start helper is told; *networks* has the definition of each network by name."""
    out = way_out(network, networks)
    member: dict[str, Any] = {
        "interfaces": [
            _interface(container, item, networks[item.network], out=item is out)
            | ({"limits": rates} if (rates := _rates(container, number, network.limits)) else {})
            # Answers to what was sent from there and translated are for this container.
            | ({"loopback6": True} if any(link.address == "::1" for link in network.links) else {})
            for number, item in enumerate(network.interfaces)
        ],
        "ports": [
            {
                "table": networks[out.network].table,
                "protocol": port.protocol,
                "address": port.address,
                "port": port.external,
                "to": targets(port, out),
                "target": port.internal,
            }
            for port in network.served_by(NAT)
            if out is not None
        ],
        # What is empty is the host's at the start.  Without gateways nobody outside is asked.
        "resolver": {
            "servers": list(naming.servers),
            "search": list(naming.search),
            "options": list(naming.options),
            "gateways": [] if out is None else _gateways(out, networks[out.network]),
            "host": host_addresses(network, networks)[:1],
        },
    }
    if network.limits.priority is not None:
        member["priority"] = network.limits.priority
    if network.limits.connections is not None and network.served_by(NAT):
        member["connections"] = network.limits.connections
    if network.links:
        member["links"] = [
            {
                "address": link.address,
                "port": link.port,
                "protocol": link.protocol,
                "host": link.host,
                "target": link.target,
            }
            for link in network.links
        ]
        member["gateways"] = host_addresses(network, networks)
    return member


def host_addresses(network: Network, networks: Mapping[str, Definition]) -> list[str]:
    """By which addresses a container reaches the host itself: on the way out, or on the first network with a bridge."""
    out = way_out(network, networks)
    bridged = [item for item in network.interfaces if networks[item.network].driver != MACVLAN]
    nearest = out if out in bridged else next(iter(bridged), None)
    return _gateways(nearest, networks[nearest.network]) if nearest is not None else []


def _interface(container: str, item: Interface, definition: Definition, *, out: bool) -> dict[str, Any]:
    return {
        "network": item.network,
        "bridge": definition.device,
        "host": host_end(container, item.interface),
        "name": item.interface,
        "mac": item.mac,
        "mtu": definition.mtu,
        "addresses": _with_length(item, definition),
        "gateways": _gateways(item, definition) if out else [],
    } | ({"mode": definition.underlay.mode} if definition.driver == MACVLAN else {})


def descriptors(network: Network) -> list[dict[str, Any]]:
    """The sockets that the payload gets, in this order, each with what it is called in LISTEN_FDNAMES."""
    return [
        {
            "name": f"{port.internal}/{port.protocol}",
            "protocol": port.protocol,
            "address": port.address,
            "port": port.external,
        }
        for port in network.served_by(FD)
    ]


def hosts_lines(network: Network, names: str, networks: Mapping[str, Definition], naming: Naming) -> str:
    """The lines of /etc/hosts that are the container's own: what was asked for, and itself as *names*, with blanks
    between, and its aliases."""
    found = []
    host = host_addresses(network, networks)
    for name, address in naming.hosts:
        # With a blank, so that it is never taken for a line that says who is on a network.
        found += [f"{item} {name}" for item in (host if address == HOST_GATEWAY else [address])]
    for interface in network.interfaces:
        called = " ".join(dict.fromkeys((*names.split(), *interface.aliases)))
        found += [f"{address}\t{called}" for address in interface.addresses()]
    if not network.interfaces:
        found.append(f"127.0.1.1\t{names}")
    return "".join(f"{line}\n" for line in found)


def _with_length(interface: Interface, definition: Definition) -> list[str]:
    found = []
    for version, address in ((4, interface.ip), (6, interface.ip6)):
        subnet = definition.subnet(version)
        if address is not None and subnet is not None:
            found.append(f"{address}/{subnet.subnet.prefixlen}")
    return found


def _gateways(interface: Interface, definition: Definition) -> list[str]:
    present = {version for version, address in ((4, interface.ip), (6, interface.ip6)) if address is not None}
    return [str(item.gateway) for item in definition.subnets if item.version in present]
