"""The verbs of `gear network`: create, list, inspect, rm, plan, connect, disconnect."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from gear import defining, definition, definitions, host, inet, network_plan, networks, publishing, underlay
from gear.cli_net import interface_of, interface_options
from gear.cli_plan import diff
from gear.command import Context, Verb, add_output_option, for_each, table, write_output
from gear.definition import Definition
from gear.errors import UsageError
from gear.model import container_name
from gear.network import Interface, network_name
from gear.systemd import Manager
from gear.underlay import Underlay


def _definition_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NETWORK", type=network_name, help="what the network is called")
    for option, metavar, text in (
        (
            "--subnet",
            "ADDRESS/LENGTH",
            "its addresses, once for IPv4 and once for IPv6; what it has, or free ones for a new one, if not given",
        ),
        (
            "--gateway",
            "ADDRESS",
            "the host's own address in a subnet, or a macvlan's router; the first one if not given",
        ),
        ("--ip-range", "ADDRESS/LENGTH", "the part of a subnet that containers get addresses from"),
    ):
        parser.add_argument(option, metavar=metavar, action="append", default=[], help=text)
    for version in (4, 6):
        parser.add_argument(
            f"--no-ipv{version}",
            dest="without",
            action="append_const",
            const=version,
            default=[],
            help=f"no addresses of IPv{version}, also if it has some",
        )
    _underlay_options(parser)
    parser.add_argument(
        "--internal",
        action=argparse.BooleanOptionalAction,
        help="no way out of it but to the host; what it is, or --no-internal, if not given",
    )
    parser.add_argument(
        "--mtu",
        metavar="BYTES|auto",
        help="the largest packet; what it has if not given; auto is 1500, less what a vxlan needs",
    )
    parser.add_argument(
        "--isolate",
        action=argparse.BooleanOptionalAction,
        help="keep it apart from other networks of gear; what it is, or --isolate, if not given",
    )
    add_output_option(parser)


def _underlay_options(parser: argparse.ArgumentParser) -> None:
    """What networks that reach beyond this host are laid on."""
    add = parser.add_argument
    add(
        "--driver",
        choices=underlay.DRIVERS,
        help="bridge, macvlan or vxlan; what it is, or bridge, if not given",
    )
    add("--parent", metavar="INTERFACE", help="the interface of this host that it hangs on")
    add(
        "--mode",
        choices=underlay.MODES,
        help="what macvlans of one parent are to each other; bridge if not given",
    )
    add("--vni", metavar="NUMBER", help="the number of the vxlan, the same on each host")
    add(
        "--peer",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="another host of the vxlan; repeated for each",
    )
    add(
        "--local",
        metavar="ADDRESS",
        help="the address that this host has for the others; by its routes if not given",
    )
    add(
        "--port",
        metavar="PORT",
        help="the UDP port of the vxlan on all hosts; what it is, or 4789, if not given",
    )


def _underlay(args: argparse.Namespace) -> Underlay:
    def number(text: str | None, what: str) -> int | None:
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
            raise UsageError(f"{text[:40]!r} is no {what}.")
        return None if text is None else int(text)

    vni, port = number(args.vni, "number of a VXLAN"), number(args.port, "port")
    return Underlay(
        None if args.parent is None else underlay.parent_name(args.parent),
        args.mode,
        None if vni is None else underlay.vni(vni),
        tuple(underlay.address(text) for text in args.peer),
        None if args.local is None else underlay.address(args.local),
        None if port is None else inet.port_number(port),
    )


def _mtu(text: str | None) -> int | Literal["auto"] | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise UsageError(
            f"{text[:40]!r} is no MTU.", hint="Give a number of bytes, for example 1400, or auto."
        )
    return int(text)


def _definition(args: argparse.Namespace, context: Context) -> Definition:
    driver = args.driver or defining.driver_of(context.layout, args.name)
    return defining.define(
        context.layout,
        args.name,
        definition.make_subnets(args.subnet, args.gateway, args.ip_range, own=driver == underlay.VXLAN),
        without=args.without,
        internal=args.internal,
        isolate=args.isolate,
        mtu=_mtu(args.mtu),
        driver=driver,
        underlay=_underlay(args),
    )


def _run_create(args: argparse.Namespace, context: Context) -> int:
    host.require_root("make networks")
    with Manager() as manager:
        publishing.require_unit_directory(manager, context.layout)
        done = networks.create(manager, context.layout, _definition(args, context))
    if args.output == "json":
        context.report_json(_created(done))
        return 0
    subnets = ", ".join(str(item.subnet) for item in done.definition.subnets)
    if done.action == "created":
        what = f"{args.name} is defined with {subnets}; it is made when a container on it starts"
    elif done.changes:
        what = f"{args.name} is changed: {', '.join(done.changes)}"
    elif done.action == "changed" and not done.containers:
        what = f"{args.name} is as it was; its files were not, and are written anew"
    else:
        what = f"{args.name} is as it was"
    if "subnets" in done.changes:
        what += f"; it has {subnets} now"
    if done.started:
        what += "; it had failed, and is up again"
    if done.containers:
        what += f"; written anew: {', '.join(done.containers)}"
    if done.restart_needed:
        what += f"; they run with what was before until: gear restart {' '.join(done.restart_needed)}"
    context.report(what)
    return 0


def _created(done: networks.Created) -> dict[str, object]:
    return {
        "name": done.definition.name,
        "action": done.action,
        "changes": list(done.changes),
        "started": done.started,
        "containers": list(done.containers),
        "restart_needed": list(done.restart_needed),
    }


def _run_plan(args: argparse.Namespace, context: Context) -> int:
    host.require_root("read the specifications of containers")
    planned = network_plan.plan(context.layout, _definition(args, context))
    if args.output == "json":
        context.report_json(_planned(planned))
        return 0
    if not planned.files and not planned.containers:
        context.report(f"{args.name}: nothing would change")
    for path, (found, new) in planned.files.items():
        write_output(diff(path, found, new))
    for spec in planned.containers:
        context.report(f"{spec.name} would be written anew, and restarted by you if it runs")
    return 0


def _planned(planned: network_plan.Plan) -> dict[str, object]:
    def change(path: Path, found: bytes | None, new: bytes) -> tuple[str, str, str]:
        return str(path), "create" if found is None else "replace", diff(path, found, new)

    changes = [change(path, *contents) for path, contents in planned.files.items()]
    return {
        "name": planned.definition.name,
        "changes": [{"path": path, "action": action, "diff": text} for path, action, text in changes],
        "containers": [spec.name for spec in planned.containers],
    }


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="names only, one a line")
    add_output_option(parser)


def _run_list(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at networks")
    rows = []

    def one(name: str) -> None:
        rows.append(networks.summary(manager, context.layout, name))

    with Manager() as manager:
        status = for_each(definitions.names(context.layout), one, context)
    if args.output == "json":
        context.report_json(rows)
    elif args.quiet:
        for row in rows:
            context.report(row["name"])
    else:
        header = ("NAME", "STATE", "DRIVER", "INTERFACE", "SUBNETS", "CONTAINERS")
        cells = [
            (
                row["name"],
                "up" if row["up"] else "down",
                row["driver"],
                row["interface"],
                " ".join(row["subnets"]),
                " ".join(row["containers"]) or "-",
            )
            for row in rows
        ]
        context.report(table(header, cells))
    return status


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NETWORK", nargs="+", type=network_name, help="a network")


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser)
    parser.add_argument("--output", choices=("json",), default="json", help="inspect always prints JSON")


def _run_inspect(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at networks")
    documents = []

    def one(name: str) -> None:
        documents.append(networks.details(manager, context.layout, name))

    with Manager() as manager:
        status = for_each(args.names, one, context)
    context.report_json(documents)
    return status


def _run_rm(args: argparse.Namespace, context: Context) -> int:
    host.require_root("remove networks")
    with Manager() as manager:

        def one(name: str) -> None:
            found = networks.remove(manager, context.layout, name)
            context.report(f"{name} is removed" if found else f"{name} is no network, so nothing was removed")

        return for_each(args.names, one, context)


def _pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK", type=network_name, help="a network")
    parser.add_argument("name", metavar="NAME", type=container_name, help="an installed container")


def _connect_arguments(parser: argparse.ArgumentParser) -> None:
    _pair(parser)
    interface_options(parser)


def _run_connect(args: argparse.Namespace, context: Context) -> int:
    host.require_root("connect containers")
    asked = interface_of(args, Interface(args.network))
    with Manager() as manager:
        done = networks.connect(manager, context.layout, args.name, asked)
    (interface,) = (item for item in done.spec.network.interfaces if item.network == args.network)
    where = f"{' '.join(interface.addresses())} on {interface.interface}"
    _tell(context, f"{args.name} is connected to {args.network}: {where}", done)
    return 0


def _run_disconnect(args: argparse.Namespace, context: Context) -> int:
    host.require_root("disconnect containers")
    with Manager() as manager:
        done = networks.disconnect(manager, context.layout, args.name, args.network)
    _tell(context, f"{args.name} is disconnected from {args.network}", done)
    return 0


def _tell(context: Context, what: str, done: networks.Reconnected) -> None:
    if done.followed:
        what += f"; links made anew: {', '.join(done.followed)}"
    if done.restart:
        what += f"; it runs with what was before until: gear restart {done.spec.name}"
    context.report(what)


VERBS = (
    Verb(
        "create",
        "make a network for containers, or change one",
        "Define the network NETWORK: a bridge of this host that containers are connected to; with --driver vxlan one "
        "that is connected with those of other hosts; with --driver macvlan none, and containers are beside this host "
        "on the network of --parent.  Running it again with "
        "the same arguments changes nothing; with others the network is changed, and the answer names the containers "
        "that have to be restarted.  What is not given stays as it is, but for --peer and --local.",
        _definition_options,
        _run_create,
    ),
    Verb(
        "plan",
        "show what network create would change",
        "With the arguments of network create, show the files that it would write as a diff and the containers that "
        "would be written anew, and write nothing.",
        _definition_options,
        _run_plan,
    ),
    Verb(
        "list",
        "list the networks",
        "List the networks that are defined, whether they are up, and the containers on them.",
        _list_arguments,
        _run_list,
    ),
    Verb(
        "inspect",
        "print everything about networks as JSON",
        "Print the definition of each network, its state, and the addresses of the containers on it.",
        _inspect_arguments,
        _run_inspect,
    ),
    Verb(
        "rm",
        "remove networks that no container is on",
        "Take networks down and remove their definitions.  One that a container is on is refused.  Removing one that "
        "is not there is no error.",
        _names,
        _run_rm,
    ),
    Verb(
        "connect",
        "put a container on one more network, or change its address there",
        "Give the installed container NAME one more interface, on NETWORK, or other addresses if it has one there.  "
        "One that runs gets it at once.",
        _connect_arguments,
        _run_connect,
    ),
    Verb(
        "disconnect",
        "take a container off a network",
        "Take away the interface of the installed container NAME on NETWORK.  One that runs loses it at once.",
        _pair,
        _run_disconnect,
    ),
)
