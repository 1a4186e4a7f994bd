"""A network of the host, by its unit `gear-network@NAME.service`: `network up DIRECTORY`, `network down DIRECTORY`, and
`network unpublish CONTAINER`, which containers' units run after their end; `network link CONTAINER PID` and `network
adjust CONTAINER PID` change one that runs; the latter reads on standard input what there was before.

`up` makes it so, whatever there was: it can be run again at any time, and containers that run stay, get connected again
and have their ports published again.  `down` leaves containers running, without this network.
"""

from __future__ import annotations

import posix as os
import sys
from _socket import AF_INET, inet_pton
from fcntl import LOCK_EX, flock

from gear.helper import network, nft, ports, ruleset, sysctls, underlay
from gear.helper.bundle import load_json, parse_json
from gear.helper.failure import Failure, Step
from gear.helper.nftables import Element, Maps, elements
from gear.helper.rtnetlink import Routes, index_of

# Bytes of a packet where the network says nothing else.
ETHERNET_MTU = 1500


def main(arguments: list[str]) -> int:
    """Serve one call; returns the exit status."""
    verb, directory, *more = arguments
    directory = directory.rstrip("/")
    step = Step()
    try:
        try:
            if more:
                _change(verb, directory, int(more[0]), step)
            else:
                {"up": up, "down": down, "unpublish": unpublish}[verb](directory, step)
        except OSError as error:
            raise step.failure(error) from error
    except Failure as failure:
        print(f"gear: {failure.message}", file=sys.stderr, flush=True)
        return failure.status
    return 0


def _change(verb: str, bundle: str, pid: int, step: Step) -> None:
    """Change the container with the payload *pid*; `adjust` is told `network` of start.json as it was."""
    from gear.helper import live

    if verb == "link":
        live.link(bundle, pid, step)
    else:
        step.doing = "read what was before"
        with open(0, "rb", buffering=0, closefd=False) as file:
            before = parse_json(file.read(), "what was before")
        live.adjust(bundle, pid, before, step)


def unpublish(bundle: str, step: Step) -> None:
    """Remove what a container that has ended may have left."""
    step.doing = f"remove what is left of the network of {bundle}"
    network.unpublish(bundle)


def up(directory: str, step: Step) -> None:
    """Make bridge, settings and rules as DIRECTORY/network.json has them."""
    definition = _locked(directory, step)
    name = definition["interface"]
    routes = Routes()
    if definition["driver"] == "macvlan":
        # All else is made by the starts of containers; nobody else may see to its link.
        step.doing = f"bring up {definition['parent']}"
        routes.set_up(underlay.parent_of(definition))
        routes.close()
        return
    step.doing = f"make the bridge {name}"
    if not index_of(name):
        routes.add_bridge(name, _mac(definition))
    bridge = index_of(name)
    # Always: until it is told another than it has, it follows the least of its ports, and below 1280 bytes it has lost
    # IPv6 and can't be given its addresses.
    routes.set_up(bridge, mtu=definition["mtu"] or ETHERNET_MTU, alias=f"gear network {definition['name']}")
    step.doing = f"give the bridge {name} its addresses"
    routes.set_addresses(bridge, addresses(definition))
    _settings(definition, step)
    loopback6 = has_loopback6(definition)
    if loopback6:
        step.doing = f"route ::1 on the bridge {name}"
        routes.route_loopback(bridge)
    published = _reconnect(directory, definition, routes, bridge, step)
    step.doing = "load the rules of nftables"
    nft.load(ruleset.render(definition, published, loopback6=loopback6), step)
    if definition["driver"] == "vxlan":
        # Last of all, as the rules keep others than peers off.
        underlay.lay(routes, definition, bridge, step)
        underlay.require_own_gateways(definition, step)
    routes.close()


def down(directory: str, step: Step) -> None:
    """Remove the rules and the bridge of a network; its containers run on without it."""
    definition = _locked(directory, step)
    routes = Routes()
    if definition["driver"] == "vxlan":
        # Before the rules, for the same reason as above.
        step.doing = f"remove the VXLAN {underlay.tunnel_of(definition)}"
        underlay.remove(routes, definition)
    step.doing = "remove the rules of nftables"
    maps = Maps()
    maps.delete_table(ruleset.table_of(definition["name"]))
    maps.close()
    step.doing = f"remove the bridge {definition['interface']}"
    routes.delete_link(definition["interface"])
    routes.close()


def _locked(directory: str, step: Step) -> dict:  # type: ignore[type-arg]
    """The definition; no container is connected or published until this process ends."""
    step.doing = f"lock the network {directory}"
    flock(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), LOCK_EX)
    step.doing = f"read {directory}/network.json"
    return load_json(f"{directory}/network.json")


def addresses(definition: dict) -> list[str]:  # type: ignore[type-arg]
    """Those of the bridge, as ADDRESS/LENGTH: the host's own in each subnet."""
    return sysctls.usable(
        [f"{item['gateway']}/{item['subnet'].partition('/')[2]}" for item in definition["subnets"]]
    )


def has_loopback6(definition: dict) -> bool:  # type: ignore[type-arg]
    """Whether its ports are published on ::1, too."""
    return sysctls.translates_loopback6() and any(":" in item for item in addresses(definition))


def variables(definition: dict) -> list[tuple[str, str]]:  # type: ignore[type-arg]
    """The kernel's variables and their values: forwarding for the host, and answers to 127.0.0.1 for the bridge."""
    name = definition["interface"]
    found = [(f"ipv4/conf/{name}/route_localnet", "1")]
    if sysctls.has_ipv6():
        found.append((f"ipv6/conf/{name}/accept_ra", "0"))
    if not definition["internal"]:
        # The first sets those of all interfaces, unless it has the value.
        found += [("ipv4/ip_forward", "1"), (f"ipv4/conf/{name}/forwarding", "1")]
        if sysctls.has_ipv6():
            found += [("ipv6/conf/all/forwarding", "1"), (f"ipv6/conf/{name}/forwarding", "1")]
    return found


def _mac(definition: dict) -> str:  # type: ignore[type-arg]
    """A local address made of the gateway's, the same at each boot, so that no neighbour has a wrong one."""
    for subnet in definition["subnets"]:
        if ":" not in subnet["gateway"]:
            return ":".join([f"{byte:02x}" for byte in b"\x02g" + inet_pton(AF_INET, subnet["gateway"])])
    return ":".join([f"{byte:02x}" for byte in b"\x02g" + os.urandom(4)])


def _settings(definition: dict, step: Step) -> None:  # type: ignore[type-arg]
    name = definition["interface"]
    step.doing = f"set the kernel's variables for {name}"
    if not definition["internal"] and sysctls.read("ipv6/conf/all/forwarding") == "0":
        for interface in os.listdir("/proc/sys/net/ipv6/conf"):
            # A router takes no advertisements of others unless told so: the host would lose its default route.
            variable = f"ipv6/conf/{interface}/accept_ra"
            if interface not in ("all", "default", name) and sysctls.read(variable) == "1":
                sysctls.write(variable, "2")
    for variable, value in variables(definition):
        sysctls.write(variable, value)


def _reconnect(directory: str, definition: dict, routes: Routes, bridge: int, step: Step) -> list[Element]:  # type: ignore
    """Make the links of containers that run ports of the bridge again; returns the elements of their ports."""
    containers = f"{directory.rpartition('/')[0].rpartition('/')[0]}/containers"
    table, hairpin = ruleset.table_of(definition["name"]), sysctls.wants_hairpin()
    published: list[Element] = []
    try:
        names = sorted(os.listdir(containers))
    except FileNotFoundError:
        return []
    maps = Maps()
    for name in names:
        wanted = ports.network_of(name, containers)
        running = False
        for item in wanted.get("interfaces", ()):
            if item["network"] == definition["name"] and (link := index_of(item["host"])):
                step.doing = f"connect {name} to the network {definition['name']}"
                routes.set_port(link, bridge, hairpin=hairpin, mtu=item["mtu"] or ETHERNET_MTU)
                running = True
        if running:
            if not maps.has_table(ruleset.table_of_limits(name)):
                # All rules of the machine have been removed; else it goes on counting.
                network.limit(name, wanted, step)
            mine = [port for port in wanted.get("ports", ()) if port["table"] == table]
            published += [element for port in mine for element in elements(port, name)]
    maps.close()
    return published
