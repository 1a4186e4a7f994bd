"""What networks of the drivers macvlan and vxlan have below them on the host: parents, and the port of a bridge that
leads to other hosts.

A port is made anew by each `up`, so whatever it was made of before, and what it has learned, is gone then.
"""

from __future__ import annotations

from gear.helper import announcing
from gear.helper.failure import Failure, Step
from gear.helper.rtnetlink import Routes, index_of

# How long an answer of another host to the question whether it has the gateway's address is waited for.
_PATIENCE_S = 0.3
_EEXIST = 17


def tunnel_of(definition: dict) -> str:  # type: ignore[type-arg]
    """The port of the bridge of a network that leads to other hosts."""
    interface: str = definition["interface"]
    return "vx-" + interface.removeprefix("gear-")


def parent_of(definition: dict) -> int:  # type: ignore[type-arg]
    """The number of a network's parent; raises Failure when it is not there."""
    parent = definition["parent"]
    index = index_of(parent)
    if not index:
        raise Failure(f"the network {definition['name']} has the parent {parent}, and there is no such link")
    return index


def lay(routes: Routes, definition: dict, bridge: int, step: Step) -> None:  # type: ignore[type-arg]
    """Connect *bridge* with the other hosts of the network; raises Failure and OSError."""
    name, peers = tunnel_of(definition), definition["peers"]
    step.doing = f"make the VXLAN {name}"
    if not remove(routes, definition):
        raise Failure(f"can't {step.doing}: there is another link of that name, which is no VXLAN")
    local = definition["local"] or ("::" if any(":" in peer for peer in peers) else "0.0.0.0")
    parent = parent_of(definition) if definition["parent"] else 0
    wanted = {"port": definition["port"], "local": local, "parent": parent, "mtu": definition["mtu"]}
    try:
        routes.add_vxlan(name, bridge, definition["vni"], **wanted)
    except OSError as error:
        routes.delete_link(name)
        if error.errno == _EEXIST:
            raise Failure(
                f"can't {step.doing}: the number {definition['vni']} on port {definition['port']} is another link's;"
                " see ip -d link show type vxlan"
            ) from error
        raise
    # By this `gear network check` knows it from others' links.
    routes.set_up(index_of(name), alias=f"gear network {definition['name']}")
    _, mtu = routes.kind_and_mtu(name) or ("", 0)
    if mtu < (definition["mtu"] or 0):
        routes.delete_link(name)
        raise Failure(
            f"can't {step.doing}: packets of {definition['mtu']} bytes do not fit through {definition['parent']}, which"
            f" leaves room for {mtu}; give gear network create {definition['name']} the option --mtu {mtu}"
        )
    step.doing = f"tell {name} of the other hosts"
    routes.flood_to(index_of(name), peers)


def remove(routes: Routes, definition: dict) -> bool:  # type: ignore[type-arg]
    """Remove the port, if it is there; False, with nothing removed, when something else is called so."""
    name = tunnel_of(definition)
    found = routes.kind_and_mtu(name)
    if found is not None and found[0] != "vxlan":
        return False
    routes.delete_link(name)
    return True


def require_own_gateways(definition: dict, step: Step) -> None:  # type: ignore[type-arg]
    """Raise Failure when another host of the network answers to a gateway's IPv4 address, in place of this one."""
    for subnet in definition["subnets"] if definition["peers"] else ():
        gateway = subnet["gateway"]
        if ":" in gateway:
            continue
        step.doing = f"ask whether another host has the gateway {gateway}"
        owner = announcing.owner_of(gateway, tunnel_of(definition), _PATIENCE_S)
        if owner:
            raise Failure(
                f"the gateway {gateway} of the network {definition['name']} is in use by {owner}: each host needs a"
                " range of addresses of its own, and a gateway in it"
            )
