"""What of the containers can be reached, and by whom: `gear ports`."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from gear import activation, attachment, containers, definitions, hindrances, sockets
from gear.definition import Definition
from gear.errors import GearError
from gear.hindrances import Hindrance
from gear.model import Layout
from gear.network import ANY4, ANY6, FD, HOST, NAT, SOCKET, Port
from gear.spec import Spec
from gear.systemd import Manager
from gear.underlay import MACVLAN, VXLAN

EVERYBODY = "everybody"
THIS_HOST = "this host"


def reach(port: Port) -> str:
    """Who gets to a published port, unless the host's firewall keeps them out."""
    if port.address in ("", ANY4, ANY6):
        return EVERYBODY
    if ip_address(port.address).is_loopback:
        return THIS_HOST
    return f"who reaches {port.address}"


def connection_limit(spec: Spec, mode: str, protocol: str) -> int | None:
    """How many connections to a published port are let in at the same time; None for any number."""
    return spec.network.limits.connections if mode in (NAT, SOCKET) and protocol == "tcp" else None


def _narrowed(spec: Spec) -> str:
    """What the container's own address filter makes of those who reach it."""
    limits = spec.network.limits
    found = (("allowed", limits.allow), ("denied", limits.deny))
    words = [f"{word} {' '.join(ranges)}" for word, ranges in found if ranges]
    return f" ({', '.join(words)})" if words else ""


def members_of(definition: Definition) -> str:
    """Who gets to every port of a container on a network."""
    if definition.driver == MACVLAN:
        return f"who is on the network of {definition.underlay.parent}, but not {THIS_HOST}"
    if definition.driver == VXLAN:
        ends = " ".join(("this host", *definition.underlay.peers))
        return f"containers of VXLAN {definition.underlay.vni} on {ends}, and these hosts"
    others = "" if definition.isolate else ", and other networks that are not isolated"
    return f"containers of {definition.name}, {THIS_HOST}{others}"


def of_container(manager: Manager, layout: Layout, spec: Spec) -> list[dict[str, Any]]:
    """An object for each way to the container: published ports, then networks it is on, and the host's network."""
    active = manager.get(containers.unit_of(layout, spec.name), "ActiveState", "s") == "active"
    networks = definitions.wanted(layout, spec.network.networks)
    listening = sockets.state(manager, spec) == "listening"
    ways: list[tuple[str, str, str, int | None, int | None, str | None, list[str], str]] = [
        (
            spec.network.served(port),
            port.protocol,
            port.address or "*",
            port.external,
            port.internal,
            *_destination(spec, port, networks),
            reach(port),
        )
        for port in spec.network.ports
    ]
    for item in spec.network.interfaces:
        to = list(item.addresses())
        ways.append(("network", "all", "", None, None, item.network, to, members_of(networks[item.network])))
    if spec.network.mode == HOST:
        ways.append((HOST, "all", "*", None, None, None, [], "who reaches what it listens on"))
    return [
        {
            "name": spec.name,
            "mode": mode,
            "protocol": protocol,
            "address": address,
            "external": external,
            "internal": internal,
            "network": network,
            "targets": to,
            "reach": who + _narrowed(spec),
            "connections": connection_limit(spec, mode, protocol),
            "active": active,
            "listening": listening and mode in (SOCKET, FD),
            "on_demand": spec.network.on_demand and external is not None,
            "dropped_by": [],
        }
        for mode, protocol, address, external, internal, network, to, who in ways
    ]


def _destination(spec: Spec, port: Port, networks: Mapping[str, Definition]) -> tuple[str | None, list[str]]:
    """The network by which *port* is reached, and the container's addresses there."""
    way, network = spec.network.served(port), spec.network
    if way == FD:  # nobody's address: the payload has the socket itself
        return None, []
    if way == SOCKET:
        return (network.networks or (None,))[0], list(activation.destinations(network)) or [
            "127.0.0.1",
            "::1",
        ]
    out = attachment.way_out(network, networks)
    return (out.network, attachment.targets(port, out)) if out else (None, [])


def collect(
    manager: Manager, layout: Layout, names: list[str]
) -> tuple[list[dict[str, Any]], list[GearError], list[Hindrance]]:
    """The ways to the containers *names*, what kept gear from telling, and which rules of others drop what comes to
    published ports."""
    found: list[dict[str, Any]] = []
    failures: list[GearError] = []
    for name in names:
        try:
            found += of_container(manager, layout, containers.get(layout, name))
        except GearError as error:
            failures.append(error)
    forwarded = [row for row in found if row["mode"] == NAT and row["active"]]
    if not forwarded:
        return found, failures, []
    met = [
        item for item in hindrances.of_networks(layout, [row["network"] for row in forwarded]) if item.inward
    ]
    for row in forwarded:
        if row["reach"] != THIS_HOST:  # which does not forward to itself
            row["dropped_by"] = [str(item.dropper) for item in met if item.network == row["network"]]
    return found, failures, met
