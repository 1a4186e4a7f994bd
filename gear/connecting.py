"""Settling how a container is connected: addresses that it keeps, free ports, and the network that is made on demand.

What is asked for is a Network (gear/network.py) with gaps; settle() fills them, and changes nothing.  take() makes it
so.  The caller of take() holds the lock.  What an administrator may configure is in /etc/gear/network.yaml:

    port_range: 20000-29999              # where free ports are chosen
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gear import allocation, attachment, definitions, files, process, records, units, yamlfile
from gear.definition import Definition
from gear.errors import HostError, NotFoundError, UsageError
from gear.inet import port_range
from gear.limits import DIRECTIONS
from gear.model import Layout
from gear.network import ANY6, BRIDGE, FD, NAT, NONE, SOCKET, Interface, Network, Port, checked, unit_name
from gear.records import dataclass, field
from gear.underlay import MACVLAN

# Below the ports that the kernel gives to clients (net.ipv4.ip_local_port_range).
PORT_RANGE = (20000, 29999)
# Bytes of a packet where the network says nothing else (Ethernet's), and of the header around it with a VLAN's tag.
_MTU = 1500
_FRAME = 18
# For each published port a start holds a socket; a unit may open 1024 files (systemd's DefaultLimitNOFILE=), and what
# a payload may is not to depend on its ports.
_MOST_SOCKETS = 900


def configured_range(layout: Layout) -> tuple[int, int]:
    """The first and last port of those that are given where none is named; raises UsageError."""
    path = layout.config / "network.yaml"
    data = files.read_bytes(path, yamlfile.LIMIT)
    document = yamlfile.parse(data, str(path)) if data else None
    if document is None:
        return PORT_RANGE
    if not isinstance(document, dict) or set(document) - {"port_range"}:
        raise UsageError(f"{path} may have the member port_range, and no other.")
    text = document.get("port_range")
    if not isinstance(text, str):
        raise UsageError(f"{path}: port_range is no range of ports.", hint="Write port_range: 20000-29999")
    return port_range(text)


@dataclass(frozen=True)
class Change:
    """A change of a network that is planned: its new definition, and owners by address of what the plan gives."""

    definition: Definition
    given: dict[str, str] = field(default_factory=dict)

    def give(self, name: str, network: Network) -> None:
        """Note the addresses of the container *name*."""
        for item in network.interfaces:
            if item.network == self.definition.name:
                self.given.update(dict.fromkeys(item.addresses(), name))

    def among(self, layout: Layout, networks: Sequence[str]) -> dict[str, Definition]:
        """The definitions of *networks*, this one's as it is to be."""
        others = [name for name in networks if name != self.definition.name]
        return definitions.wanted(layout, others) | {self.definition.name: self.definition}


def settle(
    layout: Layout, name: str, asked: Network, old: Network | None = None, change: Change | None = None
) -> Network:
    """*asked* with all gaps filled: what *old*, the network it has, says about the same, or what is free; with *change*
    as if that were made.

    Raises GearError for what can't be had.  Nothing is taken.
    """
    _require_few(name, asked)
    if asked.shared is not None:
        _require_shareable(layout, name, asked.shared)
    if asked.mode != BRIDGE:
        return checked(records.replace(asked, ports=_ports(layout, name, asked, old)))
    networks = change.among(layout, asked.networks) if change else definitions.wanted(layout, asked.networks)
    used = {item.interface for item in asked.interfaces}
    names = (f"eth{number}" for number in range(len(asked.interfaces) * 2))
    spare = (word for word in names if word not in used)
    interfaces = []
    for item in asked.interfaces:
        kept = _kept(item, old, networks[item.network])
        given = change.given if change and item.network == change.definition.name else {}
        kept = allocation.choose(layout, name, kept, networks[item.network], given)
        mac = kept.mac or attachment.mac_address(name, item.network)
        interfaces.append(records.replace(kept, interface=kept.interface or next(spare), mac=mac))
    network = records.replace(asked, interfaces=tuple(interfaces))
    network = records.replace(network, ports=_ports(layout, name, network, old))
    _require_reachable(name, network, networks)
    _require_passable(name, network, networks)
    return checked(network)


def _require_few(name: str, network: Network) -> None:
    """Raise UsageError for more ports than can be served."""
    passed = network.served_by(FD)
    # A payload's own are copied before it gets them, and there are two where one is for IPv6 alone (activation).
    each = 1 if not passed else 4 if any(port.address == ANY6 for port in passed) else 2
    if len(network.ports) + len(passed) * (each - 1) > _MOST_SOCKETS:
        most = _MOST_SOCKETS // each
        raise UsageError(
            f"{name} can't publish {len(network.ports)} ports: each takes a socket, and there can't be so many.",
            hint=f"Publish {most} at most, or connect it otherwise: to a macvlan, or --net host.",
        )


def _require_shareable(layout: Layout, name: str, other: str) -> None:
    """Raise an error unless the container *other* has a network of its own that *name* could share."""
    document = files.read_json(layout.containers / other / "spec.json")
    if not isinstance(document, dict):
        raise NotFoundError(
            f"{name} can't share the network of {other}: there is no container {other}.",
            hint="gear list-units --all shows what is installed.",
        )
    mode = (document.get("network") or {}).get("mode")
    if mode not in (NONE, BRIDGE) or other == name:
        whose = "it would be its own" if other == name else f"{other} has --net {mode}"
        raise UsageError(f"{name} can't share the network of {other}: {whose}.")


def _kept(asked: Interface, old: Network | None, definition: Definition) -> Interface:
    """*asked* with the addresses that the container has on this network already, as far as they still fit."""
    have = next((item for item in old.interfaces if item.network == asked.network), None) if old else None
    if have is None:
        return asked
    fitting: dict[int, str | None] = {4: None, 6: None}
    for version, address in ((4, have.ip), (6, have.ip6)):
        subnet = definition.subnet(version)
        if address is not None and subnet is not None and subnet.fits(address):
            fitting[version] = address
    return records.replace(asked, ip=asked.ip or fitting[4], ip6=asked.ip6 or fitting[6])


def _ports(layout: Layout, name: str, network: Network, old: Network | None) -> tuple[Port, ...]:
    """The ports with a number each: the one it had for the same, or a free one."""
    have = list(old.ports) if old else []
    found = list(network.ports)
    for number, port in enumerate(found):
        if port.external:
            continue
        first, last = port.choice or configured_range(layout)
        fixed = [item for item in found if item.external]
        chosen = next((item.external for item in have if _is_same(item, port, fixed)), None)
        if chosen is None:
            chosen = allocation.free_port(layout, name, port, range(first, last + 1), fixed)
        if chosen is None:
            raise HostError(
                f"No port from {first} to {last} is left for {name}: all are taken.",
                hint="Name another range: port_range in network.yaml.",
            )
        found[number] = records.replace(port, external=chosen, choice=None)
    allocation.require_free(layout, name, found)
    return tuple(found)


def _is_same(have: Port, asked: Port, others: list[Port]) -> bool:
    """Whether the published port *have* is what *asked* leaves open, and no other port that is asked for."""
    same = (have.address, have.internal, have.protocol, have.mode)
    fits = asked.choice is None or asked.choice[0] <= have.external <= asked.choice[1]
    return (
        same == (asked.address, asked.internal, asked.protocol, asked.mode)
        and fits
        and not any(have.overlaps(other) for other in others)
    )


def _require_reachable(name: str, network: Network, networks: Mapping[str, Definition]) -> None:
    """Raise UsageError for a port that leads nowhere."""
    out = attachment.way_out(network, networks)
    _require_bridges(name, network, networks)
    for port in network.served_by(NAT):
        if out is None:
            raise UsageError(
                f"{name} can't publish the port {port}: it is on internal networks only.",
                hint="Put it on another network as well: --net default",
            )
        if not attachment.targets(port, out):
            raise UsageError(
                f"{name} can't publish the port {port}: it has no such address on {out.network}."
            )


def _require_passable(name: str, network: Network, networks: Mapping[str, Definition]) -> None:
    """Raise UsageError for a burst that is less than a packet, none of which would ever pass, and for limits of what
    does not pass this host's rules."""
    for item in network.interfaces:
        if networks[item.network].driver == MACVLAN and network.limits.shapes:
            raise UsageError(
                f"{name} can't have limits on {item.network}: what a macvlan sends and gets passes this host by.",
                hint="Limit it where it is connected, or leave --net-rate, --net-priority and --net-connections out.",
            )
        packet = (networks[item.network].mtu or _MTU) + _FRAME
        for way in DIRECTIONS:
            if network.limits.rate(way) is not None and network.limits.burst(way) < packet:
                raise UsageError(
                    f"{name} can't have a burst of {network.limits.burst(way)} bytes on {item.network}: "
                    f"packets have up to {packet}.",
                    hint="Give a larger --net-burst, or none.",
                )


def _require_bridges(name: str, network: Network, networks: Mapping[str, Definition]) -> None:
    """Raise UsageError for a port that the host would lead to a macvlan: the kernel lets it reach none of its own."""
    for way, used in ((NAT, attachment.way_out(network, networks)), (SOCKET, network.interfaces[0])):
        ports = network.served_by(way)
        if ports and used is not None and networks[used.network].driver == MACVLAN:
            raise UsageError(
                f"{name} can't publish the port {ports[0]} in the mode {way}: this host can't reach it on"
                f" {used.network}, which is a macvlan.",
                hint="On a macvlan a container has an address of its own for others; leave -p out, use ,fd, or name a"
                " bridge network first: --net default",
            )


def take(layout: Layout, name: str, network: Network) -> None:
    """Take the addresses and ports of a settled network, and define `default` if that is used and not there yet.

    What the container had besides, it keeps.
    """
    if network.mode == BRIDGE:
        _require_nft(name)
    for definition in definitions.wanted(layout, network.networks).values():
        publish(layout, definition)
    allocation.take(layout, name, network)


def _require_nft(name: str) -> None:
    try:
        process.find("nft")
    except HostError as error:
        raise HostError(
            f"{name} can't be on a network: {error.message[:1].lower()}{error.message[1:]}",
            hint=f"{error.hint}; or with no network at all: --net none",
        ) from error


def unpublish(layout: Layout, name: str) -> None:
    """Close the published ports of the container *name*, as its unit does when it has ended."""
    program, directory = f"{units.helper_directory(layout)}/network", layout.containers / name
    process.output([*units.INTERPRETER, program, "unpublish", str(directory)])


def rendered(layout: Layout, definition: Definition) -> dict[Path, bytes]:
    """The files of a network: its definition, then its unit."""
    return {
        definitions.path(layout, definition.name): files.dump_json(definition.to_mapping()),
        unit_path(layout, definition.name): units.render_network(
            definition.name, layout, definition.underlay.parent
        ),
    }


def unit_path(layout: Layout, name: str) -> Path:
    """Where the unit of the network *name* is."""
    return layout.units / unit_name(name)


def publish(layout: Layout, definition: Definition) -> None:
    """Write the files of a network that are not as they should be."""
    files.make_directory(layout.units)
    # Who is connected to what is nobody's business.
    files.make_directory(layout.networks, 0o700)
    files.make_directory(layout.networks / definition.name)
    # The definition last, which decides: a unit without it is left over.
    for path, content in reversed(rendered(layout, definition).items()):
        if files.read_bytes(path) != content:
            files.write_atomic(path, content)
