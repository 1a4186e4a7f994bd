"""The definitions of networks on disk, and subnets that nobody has.

    STATE/networks/NAME/network.json              what the network is (gear/definition.py)
    STATE/networks/NAME/addresses/ADDRESS         a link to the name of the container that has it (gear/allocation.py)

The network `default` need not be there: it is made when it is first used, and its subnets are chosen then.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from gear import files
from gear.definition import Definition, IPNetwork, Subnet, interface_name, make_subnet
from gear.errors import HostError, IntegrityError, NotFoundError, UsageError
from gear.model import NAME, Layout
from gear.network import DEFAULT_NETWORK

# Where subnets are chosen: private addresses (RFC 1918) that neither Docker nor Podman begin with.
POOLS = (IPv4Network("10.89.0.0/16"), IPv4Network("172.29.0.0/16"), IPv4Network("192.168.0.0/16"))
_MACHINE_ID = Path("/etc/machine-id")
_PROC = Path("/proc/net")


def path(layout: Layout, name: str) -> Path:
    """Where the definition of the network *name* is."""
    return layout.networks / name / "network.json"


def names(layout: Layout) -> list[str]:
    """The names of all networks that are defined, sorted."""
    with files.explained(f"read {layout.networks}"):
        try:
            entries = os.listdir(layout.networks)
        except FileNotFoundError:
            return []
    return sorted(entry for entry in entries if NAME.fullmatch(entry) and path(layout, entry).exists())


def find(layout: Layout, name: str) -> Definition | None:
    """The definition of *name*; None when there is none."""
    where = path(layout, name)
    document = files.read_json(where)
    if document is None:
        return None
    found = Definition.from_mapping(document, str(where))
    if found.name != name:
        raise IntegrityError(f"{where} is the definition of a network {found.name}.")
    return found


def get(layout: Layout, name: str) -> Definition:
    """The definition of *name*; raises NotFoundError when there is none."""
    found = find(layout, name)
    if found is None:
        raise NotFoundError(f"There is no network {name!r}.", hint="gear network list shows those there are.")
    return found


def require_own_vni(layout: Layout, definition: Definition) -> None:
    """Raise UsageError if another network is the same VXLAN: the kernel would not know whose a packet is."""
    laid = definition.underlay
    for name in names(layout) if laid.vni is not None else []:
        other = get(layout, name).underlay
        if name != definition.name and (other.vni, other.port) == (laid.vni, laid.port):
            raise UsageError(
                f"The network {name} is the VXLAN {laid.vni} already.", hint="Give another --vni."
            )


def wanted(layout: Layout, networks: Iterable[str]) -> dict[str, Definition]:
    """The definitions of *networks*; for `default`, if it is not there yet, what it is going to be."""
    return {
        name: fresh(layout, name)
        if name == DEFAULT_NETWORK and find(layout, name) is None
        else get(layout, name)
        for name in networks
    }


def fresh(layout: Layout, name: str) -> Definition:
    """A network with subnets that nothing on this machine has, and gear's defaults otherwise."""
    return Definition(name, interface_name(name), free_subnets(layout))


def free_subnets(layout: Layout) -> tuple[Subnet, ...]:
    """A subnet of IPv4, and one of IPv6 where the kernel has that; raises HostError when none is left."""
    others = [find(layout, name) for name in names(layout)]
    taken = [item.subnet for other in others if other is not None for item in other.subnets]
    taken += [network for network, _ in routes()]
    found = [_first_free((part for pool in POOLS for part in pool.subnets(new_prefix=24)), taken)]
    if (_PROC / "if_inet6").exists():
        found.append(_first_free(_unique_local().subnets(new_prefix=64), taken))
    return tuple(make_subnet(str(item)) for item in found)


def _first_free(candidates: Iterator[IPNetwork], taken: Iterable[IPNetwork]) -> IPNetwork:
    busy = list(taken)
    for candidate in candidates:
        if not any(overlap(candidate, other) for other in busy):
            return candidate
    raise HostError(
        "No subnet is left for a network: routes of this machine or other networks have all.",
        hint="Name one yourself: gear network create NAME --subnet 10.123.0.0/24",
    )


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether they have an address in common."""
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def _unique_local() -> IPv6Network:
    """This machine's own prefix (RFC 4193): from its id, so that two machines hardly have the same."""
    try:
        identity = _MACHINE_ID.read_bytes().strip()
    except OSError:
        identity = b""
    digest = hashlib.sha256(b"gear networks\0" + identity).digest()
    return IPv6Network((b"\xfd" + digest[:5] + bytes(10), 48))


def routes() -> list[tuple[IPNetwork, str]]:
    """Where this machine sends packets, as (destination, interface), without default routes and IPv6's own groups."""
    found: list[tuple[IPNetwork, str]] = []
    for line in _lines(_PROC / "route")[1:]:
        words = line.split()
        # In the byte order of the machine (fib_route_seq_show in the kernel).
        address, mask = (int(words[place], 16).to_bytes(4, sys.byteorder) for place in (1, 7))
        found.append((IPv4Network((address, int.from_bytes(mask, "big").bit_count())), words[0]))
    for line in _lines(_PROC / "ipv6_route"):
        words = line.split()
        found.append((IPv6Network((bytes.fromhex(words[0]), int(words[1], 16))), words[9]))
    groups = ip_network("fe80::/10"), ip_network("ff00::/8")
    return [
        (network, interface)
        for network, interface in found
        if interface != "lo"
        and network.prefixlen > 1
        and not any(overlap(network, group) for group in groups)
    ]


def _lines(where: Path) -> list[str]:
    try:
        return where.read_text(encoding="ascii").splitlines()
    except OSError:  # the kernel has no such protocol
        return []
