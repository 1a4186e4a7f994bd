"""The options that say how a container is connected, and what they mean.

Part of those of gear/cli_spec.py.  Nothing is looked up here: addresses and free ports are chosen when it is installed.
"""

from __future__ import annotations

import argparse
from typing import Any

from gear import inet, limits, naming, network, records
from gear.errors import UsageError
from gear.limits import Limits
from gear.link import Link, parse_links
from gear.naming import Naming
from gear.network import BRIDGE, DEFAULT_NETWORK, Interface, Network


def network_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--net",
        "--network",
        metavar="NETWORK",
        action="append",
        default=[],
        help="none, host, container:NAME, or a network (default); may be repeated",
    )
    interface_options(parser)
    add(
        "-p",
        "--publish",
        metavar="[IP:]EXT:INT[/PROTOCOL][,MODE]",
        action="append",
        default=[],
        help="lead the port EXT of the host to INT of the container; without EXT a free one",
    )
    add(
        "--on-demand",
        action="store_true",
        help="start it at the first connection to a published port, and not before",
    )
    add(
        "--idle-stop",
        metavar="TIME",
        help="stop it when nobody has been connected for so long, for example 10min; with --on-demand",
    )
    add("--ports", metavar="INT:EXT[,...]", action="append", default=[], help="geard's spelling of --publish")
    add(
        "--add-host",
        metavar="NAME:ADDRESS",
        action="append",
        default=[],
        help="a line of /etc/hosts; the address may be host-gateway, the host as it is reached from inside",
    )
    add("--dns", metavar="ADDRESS", action="append", default=[], help="ask this name server, not the host's")
    add(
        "--dns-search", metavar="DOMAIN", action="append", default=[], help="look names up in this domain too"
    )
    add("--dns-option", metavar="OPTION", action="append", default=[], help="an option of resolv.conf(5)")
    link_option(parser)
    limit_options(parser)


def limit_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--net-rate", metavar="[in=]RATE[,out=RATE]", help="the most it may get and send, for example 10mbit")
    add("--net-burst", metavar="[in=]SIZE[,out=SIZE]", help="how much may go at once in spite of the rate")
    add(
        "--net-priority",
        metavar="PRIORITY",
        help="of the packets it sends: 0 to 15, or a class of tc, MAJOR:MINOR",
    )
    add(
        "--net-connections",
        metavar="NUMBER",
        help="the most TCP connections to its published ports at a time",
    )
    for name, what in (("allow", "although --ip-deny has it"), ("deny", "unless --ip-allow has it")):
        add(
            f"--ip-{name}",
            metavar="ADDRESS[/PREFIX]",
            action="append",
            default=[],
            help=f"{name} it to talk with these addresses, {what}; or any, localhost, link-local, multicast",
        )


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits that a command line names, which need not go together; raises UsageError."""
    rates = limits.parse_rates(args.net_rate) if args.net_rate is not None else {}
    bursts = limits.parse_bursts(args.net_burst) if args.net_burst is not None else {}
    if "=" not in (args.net_burst or "="):  # of the directions that have a rate
        bursts = {way: size for way, size in bursts.items() if way in rates or not rates}
    number = args.net_connections
    if number is not None and not (number.isascii() and number.isdigit() and len(number) < 10):
        raise UsageError(f"{number[:40]!r} is no number of connections.")
    return Limits(
        rates.get(limits.IN),
        rates.get(limits.OUT),
        bursts.get(limits.IN),
        bursts.get(limits.OUT),
        None if args.net_priority is None else limits.parse_priority(args.net_priority),
        None if number is None else limits.connection_limit(int(number)),
        _ranges(args.ip_allow),
        _ranges(args.ip_deny),
    )


def _ranges(words: list[str]) -> tuple[str, ...]:
    """Their usual forms; several may be in one word, separated by commas."""
    return tuple(dict.fromkeys(limits.address_range(item) for word in words for item in word.split(",")))


def link_option(parser: argparse.ArgumentParser) -> None:
    """-n: also the option of `gear link`."""
    parser.add_argument(
        "-n",
        "--net-links",
        "--link",
        metavar="[IP:]PORT:HOST:PORT[,...]",
        action="append",
        default=[],
        help="let it find PORT of HOST at an address and port of its own, 127.0.0.1 if only PORT is given",
    )


def links_of(args: argparse.Namespace) -> tuple[Link, ...]:
    """The links that a command line asks for; raises UsageError."""
    return tuple(link for text in args.net_links for link in parse_links(text))


def interface_options(parser: argparse.ArgumentParser) -> None:
    """The addresses of one interface: also options of `gear network connect`."""
    parser.add_argument("--ip", metavar="ADDRESS", help="its IPv4 address; a free one if not given")
    parser.add_argument("--ip6", metavar="ADDRESS", help="its IPv6 address; a free one if not given")
    parser.add_argument("--mac", metavar="ADDRESS", help="its MAC address; made of the names if not given")
    parser.add_argument(
        "--network-alias",
        "--alias",
        dest="network_alias",
        metavar="NAME",
        action="append",
        default=[],
        help="what others on the network may call it, beside its name",
    )


def interface_of(args: argparse.Namespace, wanted: Interface) -> Interface:
    """*wanted* with the addresses of the options; raises UsageError."""
    given = {
        "ip": None if args.ip is None else inet.ip_address(args.ip, 4),
        "ip6": None if args.ip6 is None else inet.ip_address(args.ip6, 6),
        "mac": None if args.mac is None else inet.mac_address(args.mac),
    }
    found: Any = {key: value for key, value in given.items() if value is not None}
    aliases = inet.unique_aliases((*wanted.aliases, *args.network_alias))
    return records.replace(wanted, aliases=aliases, **found)


def naming_of(args: argparse.Namespace) -> Naming:
    """What a command line says about names; raises UsageError."""
    return naming.checked(
        Naming(
            tuple(dict.fromkeys(naming.parse_host(text) for text in args.add_host)),
            tuple(dict.fromkeys(inet.ip_address(text) for text in args.dns)),
            tuple(dict.fromkeys(naming.search_domain(text) for text in args.dns_search)),
            tuple(dict.fromkeys(naming.resolver_option(text) for text in args.dns_option)),
        )
    )


def network_of(args: argparse.Namespace) -> Network:
    """The network that a command line asks for, with gaps for what is to be chosen; raises UsageError."""
    found = network_named(args)
    limits.checked(found.limits)
    return network.checked(found)


def network_named(args: argparse.Namespace) -> Network:
    """What a command line names of a network, which need not go together; raises UsageError."""
    ports = tuple(port for text in args.publish for port in network.parse_publish(text))
    ports += tuple(port for text in args.ports for port in network.parse_ports(text))
    addressed = any(value is not None for value in (args.ip, args.ip6, args.mac))
    links = links_of(args)
    limited = limits_of(args)
    words = args.net or [DEFAULT_NETWORK]
    asked = [network.parse_net(text) for text in words]
    alone = next((item for item in asked if isinstance(item, str)), None)
    if alone is not None and len(asked) > 1:
        raise UsageError(f"--net {alone} goes with no other network.")
    if addressed and (alone is not None or len(asked) > 1):
        raise UsageError(
            "--ip, --ip6 and --mac are for a container on one network.",
            hint="With several: --net NETWORK:ip=ADDRESS,mac=ADDRESS",
        )
    interfaces = [item for item in asked if isinstance(item, Interface)]
    if addressed:
        interfaces = [interface_of(args, interfaces[0])]
    elif args.network_alias:
        if alone is not None:
            raise UsageError(f"--network-alias does not go with --net {alone}: nobody is there to use it.")
        # As with Docker, on all of them.
        interfaces = [interface_of(args, item) for item in interfaces]
    idle = None if args.idle_stop is None else network.parse_idle(args.idle_stop)
    mode = BRIDGE if alone is None else alone
    return Network(mode, tuple(interfaces), ports, args.on_demand, idle, links, limited)
