"""The verbs of `gear image` about the files of images: diff, export."""

from __future__ import annotations

import argparse

from gear import changed, contents, host, images, leases, pack, store
from gear.cli_changes import output_option, report_changes, write_archive
from gear.command import Context, Verb, add_output_option


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a reference, or 8 or more digits of a digest")
    parser.add_argument(
        "other", nargs="?", metavar="OTHER", help="what to compare it with, instead of its own lower layers"
    )
    add_output_option(parser)


def _diff(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look into images")
    layout = context.layout
    store.prepare(layout)
    with leases.pinning(layout):
        new = contents.below(layout, images.pinned(layout, args.image))
        other = None if args.other is None else images.pinned(layout, args.other)
        old = new[:-1] if other is None else contents.below(layout, other)
        found = changed.changes(old, new, args.image, frozenset()) if new else []
    report_changes(found, args.output, context)
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    output_option(parser)
    parser.add_argument("image", metavar="IMAGE", help="a reference, or 8 or more digits of a digest")


def _export(args: argparse.Namespace, context: Context) -> int:
    host.require_root("export images")
    store.prepare(context.layout)
    with leases.pinning(context.layout):  # whoever reads the archive may take long
        layers = contents.below(context.layout, images.pinned(context.layout, args.image))
        write_archive(pack.tree(layers, pack.Writer(args.image, layer=False)), args.output)
    return 0


VERBS = (
    Verb(
        "diff",
        "list what an image changes",
        "List the files that the topmost layer of an image adds (A), changes (C) or deletes (D), or with OTHER how "
        "IMAGE differs from that image.",
        _diff_arguments,
        _diff,
    ),
    Verb(
        "export",
        "write the files of an image as a tar archive",
        "Write the files of an image, all layers merged, as a tar archive.",
        _export_arguments,
        _export,
    ),
)
