"""The verb that checks everything: fsck."""

from __future__ import annotations

import argparse

from gear import fsck, host
from gear.cli_findings import report
from gear.command import Context, Verb, add_output_option


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="mend what can be mended")
    parser.add_argument("--quick", action="store_true", help="compare names, sizes and records only")
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("check what gear keeps")
    found = fsck.fsck(context.layout, quick=args.quick, repair=args.repair)
    return report(found, context, as_json=args.output == "json", repair=args.repair)


VERBS = (
    Verb(
        "fsck",
        "check all that gear keeps, and mend it",
        "Compare images, containers, volumes, user ids and units with what they should be. Without --repair nothing is "
        "changed. With it trees are unpacked again from their blobs, files rendered again, records written again, and "
        "remains of interrupted work removed; a damaged blob is removed, and it says which image to pull again. Data "
        "in volumes and writable layers is never removed. The exit status is 0 when nothing is damaged any more, and 1 "
        "otherwise. JSON is an array of objects with path, what, damage (false for what is only left over), mended, "
        "problem (why it was not mended) and hint (what to do).",
        _arguments,
        _run,
    ),
)
