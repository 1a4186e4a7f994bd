"""The verb that shows what can be reached: ports."""

from __future__ import annotations

import argparse
from typing import Any

from gear import containers, exposure, host
from gear.command import Context, Verb, add_output_option, table
from gear.model import container_name
from gear.systemd import Manager


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="*", type=container_name, help="a container; all if not given"
    )
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at containers")
    with Manager() as manager:
        names = args.names or containers.names(context.layout)
        rows, failures, hindrances = exposure.collect(manager, context.layout, names)
    for error in failures:
        context.fail(error)
    if args.output == "json":
        context.report_json(rows)
    else:
        header = ("NAME", "STATE", "MODE", "PROTOCOL", "HOST", "CONTAINER", "NETWORK", "REACHED BY")
        context.report(table(header, [_cells(row) for row in rows]))
    for item in hindrances:
        context.warn(f"{item.dropper} {item.what}, from other hosts; to let it through: {item.hint}")
    return max((error.exit_status for error in failures), default=0)


def _cells(row: dict[str, Any]) -> list[str]:
    outside = f"{_bracketed(row['address'])}:{row['external']}" if row["external"] else row["address"]
    inside = [f"{_bracketed(to)}:{row['internal']}" if row["internal"] else to for to in row["targets"]]
    state = "active" if row["active"] else "listening" if row["listening"] else "inactive"
    if row["mode"] == "fd":
        inside = [f"descriptor {row['internal']}/{row['protocol']}"]
    return [
        row["name"],
        state,
        row["mode"],
        row["protocol"],
        outside or "-",
        " ".join(inside) or "-",
        row["network"] or "-",
        row["reach"] + (f", {row['connections']} at a time" if row["connections"] else ""),
    ]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


VERBS = (
    Verb(
        "ports",
        "show what of containers can be reached, and by whom",
        "List the published ports of containers, the networks on which all their ports can be reached, and those on "
        "the host's network.  Where rules of others surely drop what comes to published ports, a warning says whose, "
        "and what lets it through; that they let in some only is not taken into account.",
        _arguments,
        _run,
    ),
)
