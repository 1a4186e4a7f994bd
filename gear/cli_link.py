"""The verb for what containers find at addresses and ports of their own: link."""

from __future__ import annotations

import argparse
from typing import Any

from gear import containers, host, linking
from gear.cli_net import link_option, links_of
from gear.command import Context, Verb, add_output_option, for_each, table
from gear.errors import UsageError
from gear.inet import ip_address, port_number
from gear.model import container_name
from gear.systemd import Manager


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="*", type=container_name, help="an installed container"
    )
    link_option(parser)
    parser.add_argument(
        "--rm", action="store_true", help="remove links: those at the addresses and ports of -n, or all"
    )
    parser.add_argument("--list", action="store_true", help="list links and where they lead")
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("link containers")
    if args.list and (args.rm or args.net_links):
        raise UsageError("--list goes with no other option.", hint="gear link --list NAME")
    if args.list:
        return _list(args, context)
    if not args.names:
        raise UsageError("No container is named.", hint="gear link NAME -n 3306:db:3306")
    if args.rm:
        local = [_local(word) for text in args.net_links for word in text.split(",")]
        change: linking.Change = lambda have: linking.without(have, local) if local else ()  # noqa: E731
    elif args.net_links:
        wanted = links_of(args)
        change = lambda _: wanted  # noqa: E731
    else:
        change = lambda have: have  # noqa: E731
    rows: list[dict[str, Any]] = []
    with Manager() as manager:

        def one(name: str) -> None:
            done = linking.change(manager, context.layout, name, change)
            if args.output == "json":
                rows.extend(linking.listed(context.layout, name))
                return
            what = "; ".join(map(str, done.links)) if done.links else "none"
            when = "" if done.made else ", from its start on"
            context.report(f"{name} has the links {what}{when}" if done.links else f"{name} has no links")

        status = for_each(args.names, one, context)
    if args.output == "json":
        context.report_json(rows)
    return status


def _local(word: str) -> tuple[str, int]:
    """[IP:]PORT, or a whole link, as its local address and port; raises UsageError."""
    if word.count(":") - (word.partition("]")[0].count(":") if word.startswith("[") else 0) >= 2:
        from gear.link import parse_links

        (link,) = parse_links(word)
        return link.address, link.port
    address, _, port = word.rpartition(":")
    if not port.isascii() or not port.isdigit() or len(port) > 5:
        raise UsageError(f"{word[:60]!r} is no link.", hint="Write [LOCAL_IP:]LOCAL_PORT, or the whole link.")
    return ip_address(address.strip("[]") or "127.0.0.1"), port_number(int(port))


def _list(args: argparse.Namespace, context: Context) -> int:
    rows: list[dict[str, Any]] = []

    def one(name: str) -> None:
        rows.extend(linking.listed(context.layout, name))

    status = for_each(args.names or containers.names(context.layout), one, context)
    if args.output == "json":
        context.report_json(rows)
    else:
        header = ("NAME", "LOCAL", "PROTOCOL", "HOST", "LEADS TO")
        context.report(table(header, [_cells(row) for row in rows]))
    return status


def _cells(row: dict[str, Any]) -> list[str]:
    def at(address: str, port: int) -> str:
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    return [
        row["name"],
        at(row["address"], row["port"]),
        row["protocol"],
        at(row["host"], row["target"]),
        at(row["to"], row["target"]) if row["to"] else f"nowhere: {row['problem']}",
    ]


VERBS = (
    Verb(
        "link",
        "let containers find others at addresses and ports of their own",
        "Let the installed containers NAME find a port of another container, of this host or of any other at an "
        "address and port of their own.  With -n these links take the place of those they have, without it they are "
        "made anew, so that names are resolved again.  Containers that run get them at once, and connections by a link "
        "that leads elsewhere now are ended.",
        _arguments,
        _run,
    ),
)
