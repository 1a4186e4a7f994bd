"""How a container is attached to its networks: the member `network` of start.json, MAC addresses, names of interfaces.

Pure: what is chosen (addresses, free ports) is in the specification already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from gear.definition import Definition
from gear.network import FD, NAT, Interface, Network, Port
from gear.underlay import MACVLAN


def mac_address(container: str, network: str) -> str:
    """A MAC address that is the same at every start: unicast, and locally administered (IEEE 802)."""
    data = bytearray(hashlib.sha256(f"{container}\0{network}".encode()).digest()[:6])
    data[0] = data[0] & 0xFC | 0x02
    return data.hex(":")


def host_end(container: str, interface: str) -> str:
    """What the host's end of a container's interface is called."""
    return "ve" + hashlib.sha256(f"{container}\0{interface}".encode()).hexdigest()[:12]


def way_out(network: Network, networks: Mapping[str, Definition]) -> Interface | None:
    """The interface with the default routes, and the ports: the first on a network that is not internal."""
    return next((item for item in network.interfaces if not networks[item.network].internal), None)


def targets(port: Port, interface: Interface) -> list[str]:
    """The container's addresses that *port* leads to."""
    found = ((4, interface.ip), (6, interface.ip6))
    return [address for version, address in found if address is not None and version in port.families()]


def start_member(container: str, network: Network, networks: Mapping[str, Definition]) -> dict[str, Any]:
    """What the start helper is told; *networks* has the definition of each network by name."""
    out = way_out(network, networks)
    member: dict[str, Any] = {
        "interfaces": [
            _interface(container, item, networks[item.network], out=item is out)
            # Answers to what was sent from there and translated are for this container.
            | ({"loopback6": True} if any(link.address == "::1" for link in network.links) else {})
            for item in network.interfaces
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
    }
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
        # What the host itself is called on the way out, or on the first network.
        bridged = [item for item in network.interfaces if networks[item.network].driver != MACVLAN]
        nearest = out if out in bridged else next(iter(bridged), None)
        member["gateways"] = _gateways(nearest, networks[nearest.network]) if nearest is not None else []
    return member


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


def hosts_lines(network: Network, names: str) -> str:
    """The lines of /etc/hosts for the container itself: *names* with blanks between."""
    addresses = [address for item in network.interfaces for address in item.addresses()]
    return "".join(f"{address}\t{names}\n" for address in addresses or ["127.0.1.1"])


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
