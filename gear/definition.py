"""What a network is: the content of network.json, versioned and strict.

Pure.  Where definitions are kept and how their subnets are chosen is in gear/definitions.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from gear import members, underlay
from gear.errors import IntegrityError, UsageError
from gear.network import network_name, unit_name
from gear.records import dataclass
from gear.underlay import BRIDGE, DRIVERS, MACVLAN, VXLAN, Underlay

VERSION = 1

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address

_PREFIX = "gear-"
# Also of a network without subnets of IPv6: what that needs of a link (RFC 8200), as below it the kernel takes IPv6 off
# the bridge, with the variables by which a network is made (addrconf_notify in the kernel).
_LEAST_MTU = 1280
_LONGEST = {4: 30, 6: 126}
_SHORTEST = {4: 8, 6: 16}


@dataclass(frozen=True)
class Subnet:
    """Addresses of one family: the subnet, the host's own address in it, and the part that containers get addresses
    from if that is not all of it."""

    subnet: IPNetwork
    gateway: IPAddress
    range: IPNetwork | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.subnet.version

    def fits(self, text: str) -> bool:
        """Whether a container may have the address."""
        address = ip_address(text)
        ends = [self.subnet.network_address]
        if self.version == 4:
            ends.append(self.subnet.broadcast_address)
        return address in self.subnet and address != self.gateway and address not in ends


@dataclass(frozen=True)
class Definition:
    """A network.  *interface* is the bridge on the host; a macvlan has none, and takes the name all the same."""

    name: str
    interface: str
    subnets: tuple[Subnet, ...]
    internal: bool = False
    isolate: bool = True
    mtu: int | None = None
    driver: str = BRIDGE
    underlay: Underlay = Underlay()

    @property
    def device(self) -> str:
        """The interface of the host that containers are connected to."""
        return self.underlay.parent or "" if self.driver == MACVLAN else self.interface

    @property
    def tunnel(self) -> str | None:
        """The port of the bridge that leads to other hosts (gear/helper/underlay.py)."""
        return "vx-" + self.interface.removeprefix(_PREFIX) if self.driver == VXLAN else None

    def subnet(self, version: int) -> Subnet | None:
        """Its subnet of IPv4 or IPv6."""
        return next((item for item in self.subnets if item.version == version), None)

    @property
    def unit(self) -> str:
        """The name of the unit that makes it."""
        return unit_name(self.name)

    @property
    def table(self) -> str:
        """Its table of nftables, in the family inet."""
        return f"gear-{self.name}"

    def to_mapping(self) -> dict[str, Any]:
        """The content of network.json."""
        return {
            "version": VERSION,
            "name": self.name,
            "driver": self.driver,
            "interface": self.interface,
            "subnets": [
                {
                    "subnet": str(item.subnet),
                    "gateway": str(item.gateway),
                    "range": None if item.range is None else str(item.range),
                }
                for item in self.subnets
            ],
            "internal": self.internal,
            "isolate": self.isolate,
            "mtu": self.mtu,
            **self.underlay.to_mapping(),
        }

    @classmethod
    def from_mapping(cls, document: Any, where: str) -> Definition:
        """The definition in *document*; raises IntegrityError naming *where* and every fault in it."""
        if not isinstance(document, dict):
            raise IntegrityError(f"{where} is not the definition of a network: it is no JSON object.")
        found = document.get("version")
        if found != VERSION or isinstance(found, bool):
            raise IntegrityError(
                f"{where} is the definition of a network of version {found!r}, not {VERSION}."
            )
        plain = {name: value for name, value in document.items() if name != "version"}
        required = ("name", "driver", "interface", "subnets")
        values, faults = members.read(plain, _READERS, "", required)
        laid = Underlay.taken_from(values)
        if not faults:
            try:
                return checked(cls(**values, underlay=laid))
            except UsageError as error:
                faults.append(error.message.removesuffix("."))
        raise IntegrityError(f"{where} is damaged: {'; '.join(faults)}.")


def interface_name(network: str) -> str:
    """What its bridge is called: readable where the kernel's 15 characters allow it."""
    if len(_PREFIX + network) <= 15:
        return _PREFIX + network
    return _PREFIX + hashlib.sha256(network.encode()).hexdigest()[:10]


def checked(definition: Definition) -> Definition:
    """*definition* if its parts go together; raises UsageError."""
    versions = [item.version for item in definition.subnets]
    if not versions or len(set(versions)) != len(versions):
        raise UsageError("A network has one subnet of IPv4, or one of IPv6, or one of each.")
    if definition.mtu is not None and not _LEAST_MTU <= definition.mtu <= 65535:
        raise UsageError(f"An MTU of {definition.mtu} can't work.", hint=f"Give {_LEAST_MTU} to 65535.")
    underlay.checked(definition.driver, definition.underlay)
    if definition.driver != BRIDGE and definition.interface != interface_name(definition.name):
        raise UsageError(f"The interface of {definition.name} is called {interface_name(definition.name)}.")
    if definition.driver != BRIDGE and not all(item.range for item in definition.subnets):
        raise UsageError(
            f"A {definition.driver} network needs a range of addresses in each subnet: others have the rest.",
            hint="Give the part that is this host's alone: --ip-range 10.1.0.128/25",
        )
    if definition.driver == MACVLAN and (definition.internal or not definition.isolate):
        raise UsageError(
            "A macvlan network is as open as what its parent is connected to: --internal and --no-isolate are not its."
        )
    for end in (*definition.underlay.peers, *filter(None, [definition.underlay.local])):
        if inside := next(
            (item.subnet for item in definition.subnets if ip_address(end) in item.subnet), None
        ):
            raise UsageError(f"{end} can't be an end of a VXLAN: it is in the network's own subnet {inside}.")
    return definition


def make_subnet(
    subnet: str, gateway: str | None = None, range_: str | None = None, *, own: bool = False
) -> Subnet:
    """A subnet from texts, its first address being the gateway's if none is given, or with *own*, as other hosts have
    gateways as well, the first of the range; raises UsageError."""
    network = _network(subnet, "subnet")
    version = network.version
    if not _SHORTEST[version] <= network.prefixlen <= _LONGEST[version]:
        raise UsageError(
            f"{network} can't be a subnet for containers.",
            hint=f"A prefix of IPv{version} may be {_SHORTEST[version]} to {_LONGEST[version]} long.",
        )
    if network.is_multicast or network.is_loopback or network.is_link_local or network.is_unspecified:
        raise UsageError(f"{network} can't be a subnet for containers: these addresses have another meaning.")
    part = None if range_ is None else _network(range_, "range of addresses")
    if part is not None and (part.version != version or not _within(part, network)):
        raise UsageError(f"The range {part} is not in the subnet {network}.")
    whole = part if own and part is not None and part.num_addresses > 1 else network
    try:
        router = ip_address(gateway) if gateway is not None else whole[1]
    except ValueError as error:
        raise UsageError(f"{str(gateway)[:60]!r} is no address for a gateway.") from error
    if router not in network or router == network.network_address or router == network.broadcast_address:
        raise UsageError(f"The gateway {router} is no address of a host in the subnet {network}.")
    return Subnet(network, router, part)


def make_subnets(
    subnets: Sequence[str], gateways: Sequence[str], ranges: Sequence[str], *, own: bool = False
) -> tuple[Subnet, ...]:
    """What --subnet, --gateway and --ip-range say together, IPv4 first: gateways and ranges belong to the subnet that
    they are in; *own* as of make_subnet().  Raises UsageError."""
    found = []
    for text in subnets:
        network = _network(text, "subnet")
        router = [item for item in gateways if _version(item) == network.version]
        part = [item for item in ranges if _version(item) == network.version]
        if len(router) > 1 or len(part) > 1:
            raise UsageError(f"The subnet {network} takes one gateway and one range of addresses.")
        found.append(make_subnet(text, router[0] if router else None, part[0] if part else None, own=own))
    versions = {item.version for item in found}
    for option, given in (("--gateway", gateways), ("--ip-range", ranges)):
        for item in given:
            if _version(item) not in versions:
                raise UsageError(f"{option} {item} needs a --subnet that it is in.")
    return tuple(sorted(found, key=lambda item: item.version))


def _within(part: IPNetwork, whole: IPNetwork) -> bool:
    return part.network_address in whole and part.broadcast_address in whole


def _version(text: str) -> int:
    return 6 if ":" in text else 4


def _network(text: str, what: str) -> IPNetwork:
    try:
        if "/" not in text:
            raise ValueError("it has no length, as in 10.1.0.0/24")
        return ip_network(text)
    except ValueError as error:
        raise UsageError(f"{text[:60]!r} is no {what}: {error}.") from error


def _subnet(value: Any) -> Subnet:
    item = members.mapping(value)
    if set(item) - {"subnet", "gateway", "range"}:
        raise ValueError(f"{item!r} is no subnet")
    gateway, part = item.get("gateway"), item.get("range")
    return make_subnet(
        members.text(item["subnet"]),
        None if gateway is None else members.text(gateway),
        None if part is None else members.text(part),
    )


def _driver(value: Any) -> str:
    if value not in DRIVERS:
        raise UsageError(f"{value!r} is no kind of network.", hint=f"There is {', '.join(DRIVERS)}.")
    return str(value)


_READERS: dict[str, members.Reader] = {
    "name": lambda value: network_name(members.text(value)),
    "driver": _driver,
    "interface": lambda value: underlay.interface_name(members.text(value)),
    "subnets": lambda value: tuple(map(_subnet, members.array(value))),
    "internal": members.boolean,
    "isolate": members.boolean,
    "mtu": members.optional(members.integer),
    **underlay.READERS,
}
