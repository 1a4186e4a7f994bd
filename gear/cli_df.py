"""The verb that says where the disk has gone: df."""

from __future__ import annotations

import argparse
from typing import Any

from gear import disk_use, host
from gear.command import Context, Verb, add_output_option, printable, table
from gear.progress import amount


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="a line for each image, container and so on"
    )
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("count what is on the disk")
    found = disk_use.kinds(context.layout)
    if args.output == "json":
        context.report_json([kind.document() for kind in found])
        return 0
    cells = [
        (
            kind.kind,
            str(len(kind.items)),
            amount(kind.bytes),
            amount(kind.reclaimable),
            kind.verb if kind.reclaimable else "-",
        )
        for kind in found
    ]
    context.report(table(("KIND", "COUNT", "SIZE", "RECLAIMABLE", "BY"), cells))
    for kind in found if args.verbose else ():
        if kind.items:
            rows = [(_called(item), amount(item["bytes"]), _more(item)) for item in kind.items]
            context.report(f"\n{table((kind.kind.upper(), 'SIZE', 'OF IT'), rows)}")
    return 0


def _called(item: dict[str, Any]) -> str:
    if "label" in item:
        return f"{item['of']} {item['label']}"
    if item.get("references"):
        return printable(", ".join(item["references"]))
    return str(item.get("name") or item["digest"])


def _more(item: dict[str, Any]) -> str:
    if "shared" in item:
        shared = f"shared {amount(item['shared'])}, own {amount(item['own'])}"
        return shared + ("" if item["used"] else ", unused")
    if "writable" in item:
        return f"writable {amount(item['writable'])}"
    if "containers" in item:
        return " ".join(item["containers"]) or "unused"
    return "-"


VERBS = (
    Verb(
        "df",
        "show what takes how much of the disk",
        "Show what images, containers, volumes, snapshots and downloads take on the disk, and how much of it the verb "
        "named beside would free.  A file with several names counts once, as with du(1).",
        _arguments,
        _run,
    ),
)
