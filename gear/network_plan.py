"""What a change of a network takes: whether it can be had, the files, and the containers that get others.

Nothing is written; gear/networks.py makes it so.  Whatever would be refused then is refused here, so that no half of
it is made.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from gear import (
    allocation,
    attachment,
    composing,
    connecting,
    containers,
    definitions,
    files,
    host,
    install,
    records,
)
from gear.definition import Definition, IPNetwork
from gear.errors import HostError, UsageError
from gear.model import Layout
from gear.network import Interface
from gear.records import dataclass
from gear.spec import Spec

_DEVICES = Path("/sys/class/net")


@dataclass(frozen=True)
class Plan:
    """What `network create` is going to do: the definition, its files that change (found, new), and the containers
    that get other files, with what they ask for then."""

    definition: Definition
    files: dict[Path, tuple[bytes | None, bytes]]
    containers: tuple[Spec, ...]


def users(layout: Layout, name: str) -> list[Spec]:
    """The specs of the containers on the network *name*."""
    specs = [containers.get(layout, container) for container in containers.names(layout)]
    return [spec for spec in specs if name in spec.network.networks]


def plan(layout: Layout, definition: Definition) -> Plan:
    """What it takes to have *definition*; raises UsageError and HostError for what can't be."""
    old = definitions.find(layout, definition.name)
    for subnet in definition.subnets:
        if old is None or subnet.subnet not in [item.subnet for item in old.subnets]:
            _require_free(layout, definition, subnet.subnet)
    _require_own_interface(layout, definition, new=old is None)
    definitions.require_own_vni(layout, definition)
    changed = composing.compare(connecting.rendered(layout, definition))
    return Plan(definition, changed, tuple(_affected(layout, old, definition)))


def _affected(layout: Layout, old: Definition | None, new: Definition) -> list[Spec]:
    """The containers that get other files, settled; raises GearError for what one of them can't have."""
    change = connecting.Change(new)
    asked = []
    # First those that keep an address or its number, then whoever needs a free one.
    for spec in users(layout, new.name):
        busy = {*allocation.addresses(layout, new.name), *change.given}
        network = records.replace(
            spec.network,
            interfaces=tuple(_refit(item, old, new, busy) for item in spec.network.interfaces),
        )
        change.give(spec.name, network)
        if network != spec.network or _is_older(layout, spec, change):
            asked.append((spec, network))
    found = []
    for spec, refitted in asked:
        network = connecting.settle(layout, spec.name, refitted, spec.network, change)
        change.give(spec.name, network)
        found.append(records.replace(spec, network=network))
        host.require_controllers(spec)
        install.check_host(layout, spec, composing.image_of(layout, spec))
    return found


def _require_free(layout: Layout, definition: Definition, subnet: IPNetwork) -> None:
    """Raise an error if anything else on this machine has addresses of *subnet*."""
    for name in definitions.names(layout):
        other = definitions.get(layout, name)
        for item in other.subnets if name != definition.name else ():
            if definitions.overlap(item.subnet, subnet):
                raise UsageError(f"The subnet {subnet} overlaps with {item.subnet} of the network {name}.")
    for route, interface in definitions.routes():
        # A route to more than the subnet, as into a company's network, is one that a part may be taken out of.
        if (
            interface not in (definition.interface, definition.device)
            and route.prefixlen >= subnet.prefixlen
            and definitions.overlap(route, subnet)
        ):
            raise HostError(f"The subnet {subnet} is in use: this machine has {route} on {interface}.")


def _require_own_interface(layout: Layout, definition: Definition, *, new: bool) -> None:
    """Raise an error if the name of the bridge is not this network's alone."""
    for name in definitions.names(layout):
        if name != definition.name and definitions.get(layout, name).interface == definition.interface:
            raise UsageError(f"{definition.name} would have the same interface as the network {name}.")
    for interface in filter(None, (definition.interface, definition.tunnel)):
        if new and (_DEVICES / interface).exists():
            raise HostError(
                f"There is an interface {interface} on this machine already.",
                hint=f"If nobody needs it: ip link delete {interface}",
            )


def _refit(interface: Interface, old: Definition | None, new: Definition, busy: set[str]) -> Interface:
    """*interface* with what the network gives now: addresses that do not fit get their number in the new subnet, or a
    gap that is filled later, as do those of a family that it had not.  *busy* are those that are taken."""
    if interface.network != new.name:
        return interface
    kept: dict[int, str | None] = {4: interface.ip, 6: interface.ip6}
    for version, address in kept.items():
        subnet, before = new.subnet(version), old.subnet(version) if old is not None else None
        if address is None or (subnet is not None and subnet.fits(address)):
            continue
        kept[version] = None
        if subnet is not None and before is not None:
            number = int(ip_address(address)) - int(before.subnet.network_address)
            twin = str(subnet.subnet[number]) if 0 <= number < subnet.subnet.num_addresses else ""
            part = subnet.range or subnet.subnet
            if twin and twin not in busy and subnet.fits(twin) and ip_address(twin) in part:
                kept[version] = twin
    return records.replace(interface, ip=kept[4], ip6=kept[6])


def _is_older(layout: Layout, spec: Spec, change: connecting.Change) -> bool:
    """Whether the container's files do not say of this network what they should."""
    definition = change.definition
    networks = change.among(layout, spec.network.networks)
    for item in spec.network.interfaces:
        if item.network == definition.name:
            have = {version for version, address in ((4, item.ip), (6, item.ip6)) if address is not None}
            if have != {subnet.version for subnet in definition.subnets}:
                return True
    found = files.read_json(layout.containers / spec.name / "start.json")
    member = attachment.start_member(spec.name, spec.network, networks, spec.naming)
    return not isinstance(found, dict) or found.get("network") != member
