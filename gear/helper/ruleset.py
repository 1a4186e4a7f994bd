"""The nftables ruleset of a network as readable text: a pure function of its definition and of what is published.

One table for each network, which replaces its predecessor in one transaction.  Nothing here touches the rules of
others, and `accept` in a chain of this table ends that chain alone: the host's own chains decide as well, and what one
of them drops is dropped.
"""

from __future__ import annotations

from gear.helper.nftables import Element

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from collections.abc import Iterable

# The bridges of gear's networks are called so.
INTERFACES = "gear-*"
# The table of a container's links.  No network's is called so, should the container have networks of its own.
LINKS = "gearlinks"
# What begins the name of the table of a container's limits: nor is it in any network's.
LIMITS = "gearlimits-"
# Kinds of maps of published ports, and what stands first in their keys.
_KINDS = (("any", ""), ("one", "{} . "))


def table_of(name: str) -> str:
    """The table of the network *name*."""
    return f"gear-{name}"


def render(network: dict, published: Iterable[Element], *, loopback6: bool) -> str:  # type: ignore[type-arg]
    """What `nft -f` makes the table of *network* (network.json) with; *published* are the elements of its maps.

    With *loopback6* ports are also published on ::1.
    """
    table, bridge = table_of(network["name"]), network["interface"]
    subnets = [(("ip6" if ":" in item["subnet"] else "ip"), item["subnet"]) for item in network["subnets"]]
    chains = [_maps(published), *_translation(loopback6=loopback6)]
    chains += [_guard(bridge), _forward(network, subnets), _postrouting(network, subnets)]
    if network.get("vni") is not None:
        chains += _tunnel(network)
    # Declared first, so that there is one to delete.
    return f"table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{''.join(chains)}}}\n"


def _chain(name: str, hook: str, rules: list[str]) -> str:
    lines = "".join([f"        {line}\n" for line in ([hook] if hook else []) + rules])
    return f"    chain {name} {{\n{lines}    }}\n"


def render_links(links: list[Element]) -> str:
    """What `nft -f` makes the rules of a container's *links* with, in its own network namespace."""
    number = "meta l4proto . th dport"
    own = [
        f"dnat ip to ip daddr . {number} map @one4",
        f"dnat ip6 to ip6 daddr . {number} map @one6",
    ]
    # Nobody else can answer to a loopback address.
    leaving = [
        f'oifname != "lo" ct status dnat meta l4proto {item.protocol} ct original '
        f"{'ip6' if item.map.endswith('6') else 'ip'} daddr {item.address} ct original proto-dst {item.port} masquerade"
        for item in links
    ]
    guard = [f'iifname != "lo" ip {side} 127.0.0.0/8 drop' for side in ("daddr", "saddr")]
    chains = [
        _maps(links, (("one", "{} . "),)),
        # As in _guard(): others on the container's networks are kept from its loopback addresses.
        _chain("guard", "type filter hook prerouting priority -300;", guard),
        _chain("output", "type nat hook output priority -100;", own),
        _chain("postrouting", "type nat hook postrouting priority 100;", leaving),
    ]
    return f"table inet {LINKS}\ndelete table inet {LINKS}\ntable inet {LINKS} {{\n{''.join(chains)}}}\n"


def table_of_limits(container: str) -> str:
    """The table of what the traffic of *container* is limited to."""
    return f"{LIMITS}{container}"


def render_limits(container: str, wanted: dict) -> str:  # type: ignore[type-arg]
    """What `nft -f` makes the table of *container* with; *wanted* is `network` of start.json, with `connections`,
    `priority`, or both."""
    addresses = [address.partition("/")[0] for item in wanted["interfaces"] for address in item["addresses"]]
    families = [("ip6" if ":" in address else "ip", address) for address in addresses]
    chains = []
    if "priority" in wanted:
        # Behind the place where the kernel takes it from the type of service, before anything leaves.
        value = f"{wanted['priority'] >> 16:x}:{wanted['priority'] & 0xFFFF:x}"
        rules = [f"{family} saddr {address} meta priority set {value}" for family, address in families]
        chains.append(_chain("marked", "type filter hook forward priority -150;", rules))
    if "connections" in wanted:
        new = "meta l4proto tcp ct state new ct status dnat jump counted"
        rules = [f"{family} daddr {address} {new}" for family, address in families]
        # After the host's own chains: what these drop does not count.  What the host sends itself is not forwarded.
        for hook in ("forward", "output"):
            chains.append(_chain(hook, f"type filter hook {hook} priority 10;", rules))
        # One rule counts for all addresses.  It is the last: nft 1.0.6 does not know where one is that follows.
        chains.append(_chain("counted", "", [f"ct count over {wanted['connections']} reject with tcp reset"]))
    table = table_of_limits(container)
    return f"table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{''.join(chains)}}}\n"


def _maps(published: Iterable[Element], kinds: tuple[tuple[str, str], ...] = _KINDS) -> str:
    """Published ports: protocol and port on any address of the host, or address, protocol and port."""
    text = ""
    for name, key in kinds:
        for family, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr")):
            lines = []
            for item in published:
                if item.map == name + family:
                    host = f"{item.address} . " if item.address else ""
                    what = f'{host}{item.protocol} . {item.port} comment "{item.owner}"'
                    lines.append(f"            {what} : {item.to} . {item.target}")
            elements = "        elements = {{\n{}\n        }}\n".format(",\n".join(lines)) if lines else ""
            types = f"{key.format(kind)}inet_proto . inet_service : {kind} . inet_service"
            text += f"    map {name}{family} {{\n        type {types}\n{elements}    }}\n"
    return text


def _translation(*, loopback6: bool) -> list[str]:
    """Where published ports lead: for what comes to the host, and for what it sends to itself."""
    number = "meta l4proto . th dport"
    rules = [
        f"dnat ip to ip daddr . {number} map @one4",
        f"dnat ip6 to ip6 daddr . {number} map @one6",
        f"fib daddr type local dnat ip to {number} map @any4",
        f"fib daddr type local dnat ip6 to {number} map @any6",
    ]
    # What can't work is refused at once, so that clients of `localhost` go on to 127.0.0.1.
    own = [] if loopback6 else ["ip6 daddr ::1 return"]
    return [
        _chain("published", "", rules),
        _chain("prerouting", "type nat hook prerouting priority -100;", ["jump published"]),
        _chain("output", "type nat hook output priority -100;", [*own, "jump published"]),
    ]


def _guard(bridge: str) -> str:
    """With route_localnet the kernel no longer refuses loopback addresses on the bridge: only answers have them."""
    rules = [f'iifname "{bridge}" ip {side} 127.0.0.0/8 drop' for side in ("daddr", "saddr")]
    # Before the translation of addresses, so that no answer has one of these yet.
    return _chain("guard", "type filter hook prerouting priority -300;", rules)


def _tunnel(network: dict) -> list[str]:  # type: ignore[type-arg]
    """VXLAN has no notion of who may send: what does not come from a peer is dropped before it is unpacked, and
    containers are kept from sending to peers as if they were this host, whose address theirs is replaced by."""
    peers = network["peers"]
    families = []
    for family, version in (("ip", "ipv4"), ("ip6", "ipv6")):
        own = ", ".join([peer for peer in peers if (":" in peer) == (family == "ip6")])
        families.append((family, own) if own else (f"meta nfproto {version}", ""))
    # After the eight bytes of UDP and four of flags; another VXLAN on the same port has other peers.
    mine = f"udp dport {network['port']} @th,96,24 {network['vni']}"
    others = [f'iifname "{INTERFACES}" {mine} drop']
    if network["parent"]:
        others.append(f'iifname != "{network["parent"]}" {mine} drop')
    leaving = []
    for match, own in families:
        if not own:
            others.append(f"{match} {mine} drop")
            continue
        others.append(f"{match} saddr != {{ {own} }} {mine} drop")
        leaving.append(f'iifname "{INTERFACES}" {match} daddr {{ {own} }} udp dport {network["port"]} drop')
    return [
        _chain("underlay", "type filter hook input priority 0;", others),
        _chain("forged", "type filter hook forward priority 0;", leaving),
    ]


def _forward(network: dict, subnets: list[tuple[str, str]]) -> str:  # type: ignore[type-arg]
    """Who may go in and out; nothing but what is published is reached from outside."""
    inside, bridge = network["interface"], f'oifname "{network["interface"]}"'
    rules = [
        f'iifname "{inside}" oifname "{inside}" accept'
    ]  # with br_netfilter, bridged frames come by as well
    if network["internal"]:
        rules += [f'iifname "{inside}" drop', f"{bridge} drop"]
        return _chain("forward", "type filter hook forward priority 0;", rules)
    for family in ("ip", "ip6"):
        own = ", ".join(subnet for kind, subnet in subnets if kind == family)
        version = "ipv4" if family == "ip" else "ipv6"
        rules.append(
            f'iifname "{inside}" {family} saddr != {{ {own} }} drop'
            if own
            else f'iifname "{inside}" meta nfproto {version} drop'
        )
    rules += [f"{bridge} ct state established,related accept", f"{bridge} ct status dnat accept"]
    if not network["isolate"]:
        rules.append(f'{bridge} iifname "{INTERFACES}" accept')
    rules.append(f"{bridge} drop")
    return _chain("forward", "type filter hook forward priority 0;", rules)


def _postrouting(network: dict, subnets: list[tuple[str, str]]) -> str:  # type: ignore[type-arg]
    """Whose address is replaced by the host's; that of a client outside never is."""
    bridge = network["interface"]
    # From the host to itself: a container can't answer to a loopback address.
    rules = [
        f'oifname "{bridge}" {loopback} masquerade' for loopback in ("ip saddr 127.0.0.0/8", "ip6 saddr ::1")
    ]
    for family, subnet in subnets:
        # From a container by the host's address to one of the same network: the answer has to come back here.
        rules.append(f'oifname "{bridge}" {family} saddr {subnet} ct status dnat masquerade')
        if not network["internal"]:
            rules.append(f'oifname != "{bridge}" {family} saddr {subnet} masquerade')
    return _chain("postrouting", "type nat hook postrouting priority 100;", rules)
