"""The verb that checks networks beside what the kernel has: network check."""

from __future__ import annotations

import argparse

from gear import host, network_repair
from gear.cli_findings import report
from gear.command import Context, Verb, add_output_option
from gear.network import network_name
from gear.systemd import Manager


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        metavar="NETWORK",
        nargs="*",
        type=network_name,
        help="a network; all, and what is left of others, if not given",
    )
    parser.add_argument("--repair", action="store_true", help="mend what can be mended")
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("check networks")
    with Manager() as manager:
        found = network_repair.check(manager, context.layout, args.names, repair=args.repair)
        return report(found, context, as_json=args.output == "json", repair=args.repair)


VERBS = (
    Verb(
        "check",
        "check networks, and mend them",
        "Compare networks and what containers that run have of them with what there is: files, who has which address "
        "and port, bridges, addresses, routes, the kernel's variables, every rule and map of nftables, and what is "
        "left of networks and containers that are gone. Without --repair nothing is changed. With it remains are "
        "removed and networks made anew; containers run on. Rules of others that drop what a network forwards are "
        "told of with the command that lets it through; they are no fault. The exit status is 0 when nothing is wrong "
        "any more, and 1 otherwise. JSON is as of gear fsck.",
        _arguments,
        _run,
    ),
)
