"""Who has which address of a network and which published port: never two.

A symbolic link whose target is the name of a container; making it is what takes the thing, so two installs at once
can't get the same.

    STATE/networks/NETWORK/addresses/ADDRESS -> NAME
    STATE/ports/PROTOCOL-PORT-ADDRESS -> NAME        the address is empty for every one of the host

The specifications hold the same and are the truth; links that no specification agrees with are swept by `gear clean`,
and by the next install of the container.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from gear import records
from gear.definition import Definition, Subnet
from gear.errors import HostError, UsageError
from gear.files import explained, make_directory, remove_file, sync_directory
from gear.model import Layout
from gear.network import ANY4, ANY6, Interface, Network, Port
from gear.patterns import pattern
from gear.records import dataclass

_PORT = pattern(r"(tcp|udp)-([0-9]{1,5})-([0-9a-f:.]*)", re.ASCII)


@dataclass(frozen=True)
class Taken:
    """An address or a port that a container has: what it is, whose it is, and the link that says so."""

    what: str
    name: str
    path: Path


def addresses(layout: Layout, network: str) -> dict[str, Taken]:
    """Every address of *network* that is taken."""
    return {
        path.name: Taken(f"the address {path.name} of {network}", name, path)
        for path, name in _links(layout.networks / network / "addresses")
    }


def ports(layout: Layout) -> list[tuple[Port, Taken]]:
    """Every published port; what is inside is not known here."""
    found = []
    for path, name in _links(layout.ports):
        if match := _PORT.fullmatch(path.name):
            port = Port(match[3], int(match[2]), 0, match[1])
            found.append((port, Taken(f"the port {port.external}/{port.protocol}", name, path)))
    return found


def _links(directory: Path) -> list[tuple[Path, str]]:
    with explained(f"read {directory}"):
        try:
            entries = sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        return [
            (directory / entry, os.readlink(f"{directory}/{entry}")) for entry in entries if entry[:1] != "."
        ]


def taken(layout: Layout) -> list[Taken]:
    """Every address and port that is taken, of whatever network."""
    with explained(f"read {layout.networks}"):
        try:
            networks = sorted(os.listdir(layout.networks))
        except FileNotFoundError:
            networks = []
    found = [item for network in networks for item in addresses(layout, network).values()]
    return found + [item for _, item in ports(layout)]


def wanted(layout: Layout, network: Network) -> set[Path]:
    """The links that a container with *network* has."""
    links = {
        layout.networks / item.network / "addresses" / address
        for item in network.interfaces
        for address in item.addresses()
    }
    return links | {
        layout.ports / f"{port.protocol}-{port.external}-{port.address}" for port in network.ports
    }


def take(layout: Layout, name: str, network: Network) -> None:
    """Take what *network* needs for the container *name*; raises UsageError naming the owner of what another has."""
    require_free(layout, name, network.ports)
    for path in sorted(wanted(layout, network)):
        with explained(f"take {path}"):
            try:
                for private in (layout.networks, layout.ports):
                    make_directory(private, 0o700)
                make_directory(path.parent)
                os.symlink(name, path)
                sync_directory(path.parent)
            except FileExistsError:
                owner_name = os.readlink(path)
                if owner_name != name:
                    raise UsageError(f"{name} can't have {path.name}: it belongs to {owner_name}.") from None


def require_free(layout: Layout, name: str, wanted: Iterable[Port]) -> None:
    """Raise UsageError for a port that another container than *name* has."""
    have: dict[tuple[str, int], list[tuple[Port, str]]] = {}
    for other, owner in ports(layout):
        if owner.name != name:
            have.setdefault((other.protocol, other.external), []).append((other, owner.name))
    for port in wanted:
        for other, whose in have.get((port.protocol, port.external), ()):
            if port.overlaps(other):
                raise UsageError(
                    f"{name} can't have the port {port.external}/{port.protocol}: {whose} has it.",
                    hint=f"Publish another one, or leave the number out for a free one: -p {port.internal}",
                )


def held(layout: Layout, name: str) -> set[Path]:
    """The links of everything that the container *name* has."""
    return {item.path for item in taken(layout) if item.name == name}


def give_back(links: Iterable[Path]) -> None:
    """Free what *links* stand for."""
    for link in links:
        remove_file(link)


def choose(
    layout: Layout, name: str, asked: Interface, definition: Definition, given: dict[str, str]
) -> Interface:
    """*asked* with an address of each family of the network: those it asks for, or the lowest free ones, with the same
    number in both subnets where that can be.  *given* are owners by address of those that are not taken yet and not
    free either.  Nothing is taken yet; raises UsageError and HostError."""
    owners = {address: owner.name for address, owner in addresses(layout, definition.name).items()} | given
    busy = {address for address, owner in owners.items() if owner != name}
    chosen: dict[int, str | None] = {4: asked.ip, 6: asked.ip6}
    for version, option in ((4, "--ip"), (6, "--ip6")):
        subnet, address = definition.subnet(version), chosen[version]
        if address is None:
            continue
        if subnet is None or not subnet.fits(address):
            there = "has none of that family" if subnet is None else f"gives those of {subnet.subnet}"
            if subnet is not None and ip_address(address) in subnet.subnet:
                there = f"has it itself, as {'its gateway' if address == str(subnet.gateway) else 'its first or last'}"
            raise UsageError(
                f"{name} can't have the address {address} ({option}): {definition.name} {there}."
            )
        if address in busy:
            raise UsageError(
                f"{name} can't have the address {address} of {definition.name}: {owners[address]} has it."
            )
    for version, other in ((4, 6), (6, 4)):
        subnet, twin, beside = definition.subnet(version), chosen[other], definition.subnet(other)
        if chosen[version] is None and subnet is not None:
            number = None
            if twin is not None and beside is not None:
                number = int(ip_address(twin)) - int(beside.subnet.network_address)
            chosen[version] = _free_address(subnet, number, busy, definition.name)
    return records.replace(asked, ip=chosen[4], ip6=chosen[6])


def _free_address(subnet: Subnet, number: int | None, busy: set[str], network: str) -> str:
    """The address with this *number* in the subnet if it is free, or the lowest free one."""
    part = subnet.range or subnet.subnet
    if number is not None and number < subnet.subnet.num_addresses:
        twin = subnet.subnet[number]
        if twin in part and str(twin) not in busy and subnet.fits(str(twin)):
            return str(twin)
    # As many are tried as are taken, and a few more: those that no container may have.
    first = 2 if part.num_addresses > 2 and part[1] == subnet.gateway else 0
    for step in range(first, min(part.num_addresses, first + len(busy) + 8)):
        address = str(part[step])
        if address not in busy and subnet.fits(address):
            return address
    raise HostError(
        f"No address of {part} is left in the network {network}.",
        hint=f"Make it larger: gear network create {network} --subnet ...; gear clean frees what nobody has.",
    )


def free_port(
    layout: Layout, name: str, asked: Port, candidates: Iterable[int], own: Iterable[Port]
) -> int | None:
    """The first of *candidates* that no container has, the container itself does not publish otherwise (*own*), and
    nothing on this machine listens on; None if there is none."""
    busy = [port for port, owner in ports(layout) if owner.name != name] + list(own)
    for number in candidates:
        port = Port(asked.address, number, asked.internal, asked.protocol)
        if not any(port.overlaps(other) for other in busy) and is_free(port):
            return number
    return None


def is_free(port: Port) -> bool:
    """Whether nothing on this machine listens on *port*: it could be bound."""
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    tries: list[tuple[socket.AddressFamily, str]] = []
    if port.address in ("", ANY4):
        tries.append((socket.AF_INET, ANY4))
    if port.address in ("", ANY6) and socket.has_ipv6:
        tries.append((socket.AF_INET6, ANY6))
    if not tries:
        tries.append((socket.AF_INET6 if ":" in port.address else socket.AF_INET, port.address))
    return all(_can_bind(family, kinds[port.protocol], address, port.external) for family, address in tries)


def _can_bind(family: socket.AddressFamily, kind: socket.SocketKind, address: str, port: int) -> bool:
    with contextlib.ExitStack() as stack:
        try:
            trial = stack.enter_context(socket.socket(family, kind))
        except OSError:  # the kernel has no such protocol, so nobody listens
            return True
        try:
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:  # connections that have just ended do not count
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address, port))
        except OSError:
            return False
    return True
