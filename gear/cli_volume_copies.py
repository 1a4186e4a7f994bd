"""The verbs of `gear volume` about copies: snapshot, restore, clone, backup, import."""

from __future__ import annotations

import argparse
import time

from gear import compression, host, volume_archive, volume_copies
from gear.cli_changes import output_option, pause_option, write_archive
from gear.cli_volume import name_argument, new_options, size_of
from gear.command import Context, Verb, add_output_option, labels_of, table
from gear.errors import UsageError
from gear.mounting import volume_name
from gear.progress import amount
from gear.systemd import Manager


def _snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    name_argument(parser)
    parser.add_argument(
        "label", nargs="?", metavar="LABEL", help="what to call the snapshot; the time if it is left out"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the snapshots there are")
    what.add_argument("--rm", metavar="LABEL", help="remove a snapshot")
    pause_option(parser)
    add_output_option(parser)


def _snapshot(args: argparse.Namespace, context: Context) -> int:
    host.require_root("make snapshots of volumes")
    if args.label is not None and (args.list or args.rm is not None):
        raise UsageError("LABEL names a new snapshot; --rm takes one of its own.")
    layout, json = context.layout, args.output == "json"
    if args.list:
        rows = [snapshot.document() for snapshot in volume_copies.listing(layout, args.name)]
        if json:
            context.report_json(rows)
        else:
            cells = [(row["label"], _moment(row["created"]), amount(row["used"])) for row in rows]
            context.report(table(("LABEL", "CREATED", "USED"), cells))
        return 0
    if args.rm is not None:
        volume_copies.remove(layout, args.name, args.rm)
        context.report(f"the snapshot {args.rm} of {args.name} is removed")
        return 0
    with Manager() as manager:
        found = volume_copies.take(manager, layout, args.name, args.label, pause=not args.no_pause)
    if json:
        context.report_json(found.document())
    else:
        context.report(f"{args.name} has the snapshot {found.label}")
    return 0


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    name_argument(parser)
    parser.add_argument("label", metavar="LABEL", help="a snapshot of it")


def _restore(args: argparse.Namespace, context: Context) -> int:
    host.require_root("restore volumes")
    with Manager() as manager:
        volume_copies.restore(manager, context.layout, args.name, args.label)
    context.report(f"{args.name} is what it was at {args.label}")
    return 0


def _clone_arguments(parser: argparse.ArgumentParser) -> None:
    name_argument(parser)
    parser.add_argument("new", metavar="NEW", type=volume_name, help="the name of the new one")
    pause_option(parser)


def _clone(args: argparse.Namespace, context: Context) -> int:
    host.require_root("copy volumes")
    with Manager() as manager:
        volume_copies.clone(manager, context.layout, args.name, args.new, pause=not args.no_pause)
    context.report(f"{args.new} is a copy of {args.name}")
    return 0


def _backup_arguments(parser: argparse.ArgumentParser) -> None:
    output_option(parser)
    parser.add_argument(
        "--compress",
        choices=("plain", "gzip", "zstd"),
        help="how; what the name of the file says (.gz, .zst) if not given",
    )
    pause_option(parser)
    name_argument(parser)


def _backup(args: argparse.Namespace, context: Context) -> int:
    host.require_root("back volumes up")
    kind = args.compress or compression.kind_by_name(args.output or "")
    with (
        Manager() as manager,
        volume_archive.packed(manager, context.layout, args.name, kind, pause=not args.no_pause) as pieces,
    ):
        write_archive(pieces, args.output)
    return 0


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    name_argument(parser)
    parser.add_argument("file", metavar="FILE", help="a tar archive, compressed or not; - is standard input")
    new_options(parser)


def _import(args: argparse.Namespace, context: Context) -> int:
    host.require_root("make volumes")
    found = volume_archive.unpack(
        context.layout, args.name, args.file, labels=labels_of(args.label), size=size_of(args.size)
    )
    context.report(f"{args.name} has {found.entries} files and directories with {amount(found.size)}")
    return 0


VERBS: tuple[Verb, ...] = (
    Verb(
        "snapshot",
        "keep what a volume holds now",
        "Keep a copy of what VOLUME holds, which takes next to no space on btrfs and xfs.  Containers that have it are "
        "paused meanwhile.  It is removed with the volume.",
        _snapshot_arguments,
        _snapshot,
    ),
    Verb(
        "restore",
        "make a volume what it was",
        "Make VOLUME what it was when the snapshot LABEL was taken.  What it holds now is gone then, but for its "
        "snapshots.  It is refused while a container that has it runs.",
        _restore_arguments,
        _restore,
    ),
    Verb(
        "clone",
        "make a volume like one that is there",
        "Make the volume NEW with the data, labels and limit of VOLUME, but without its snapshots.  Containers that "
        "have it are paused meanwhile.",
        _clone_arguments,
        _clone,
    ),
    Verb(
        "backup",
        "write a volume to a tar archive",
        "Write everything in VOLUME as a tar archive, with owners as containers see them, access lists, attributes, "
        "capabilities, hard links and holes.  Containers that have it are paused meanwhile.",
        _backup_arguments,
        _backup,
    ),
    Verb(
        "import",
        "make a volume of a tar archive",
        "Make the volume VOLUME, which must not be there yet, of an archive such as gear volume backup writes.",
        _import_arguments,
        _import,
    ),
)
