"""The verb for going back: snapshot."""

from __future__ import annotations

import argparse
import time

from gear import containers, host, restoring, snapshots
from gear.cli_changes import pause_option
from gear.command import Context, Verb, add_output_option, printable, table
from gear.errors import UsageError
from gear.model import container_name
from gear.snapshots import Snapshot, label_of
from gear.systemd import Manager


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=container_name, help="an installed container")
    parser.add_argument(
        "label", nargs="?", metavar="LABEL", help="what to call the snapshot; the time if it is left out"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the snapshots there are")
    what.add_argument("--restore", metavar="LABEL", help="make the container what it was then")
    what.add_argument("--rm", metavar="LABEL", help="remove a snapshot")
    parser.add_argument(
        "--volumes",
        action="store_true",
        help="with the data of its named volumes; to --restore: only if the snapshot has them",
    )
    parser.add_argument(
        "--restart", action="store_true", help="stop a container that runs to restore it, and start it again"
    )
    pause_option(parser)
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("make snapshots of containers")
    chosen = args.list or args.restore is not None or args.rm is not None
    if chosen and args.label is not None:
        raise UsageError("LABEL names a new snapshot; --restore and --rm take one of their own.")
    if args.restart and args.restore is None:
        raise UsageError("--restart only means something with --restore.")
    if args.volumes and (args.list or args.rm is not None):
        raise UsageError("--volumes only means something for a new snapshot, and with --restore.")
    if args.list:
        containers.get(context.layout, args.name)
        _report(snapshots.listing(context.layout, args.name), args, context)
        return 0
    if args.rm is not None:
        snapshots.remove(context.layout, args.name, label_of(args.rm))
        _done(args, context, args.rm, "removed", f"the snapshot {args.rm} of {args.name} is removed")
        return 0
    with Manager() as manager:
        if args.restore is not None:
            label = label_of(args.restore)
            again = restoring.restore(
                manager, context.layout, args.name, label, restart=args.restart, volumes=args.volumes
            )
            what = f"{args.name} is what it was at {label}" + (", and runs again" if again else "")
            _done(args, context, label, "restored", what)
            return 0
        found = snapshots.take(
            manager,
            context.layout,
            args.name,
            args.label,
            volumes=args.volumes,
            pause=not args.no_pause,
        )
    if args.output == "json":
        context.report_json(found.document())
    else:
        context.report(f"{args.name} has the snapshot {found.label}")
    return 0


def _done(args: argparse.Namespace, context: Context, label: str, action: str, sentence: str) -> None:
    if args.output == "json":
        context.report_json({"container": args.name, "label": label, "action": action})
    else:
        context.report(sentence)


def _report(found: list[Snapshot], args: argparse.Namespace, context: Context) -> None:
    if args.output == "json":
        context.report_json([snapshot.document() for snapshot in found])
        return
    rows = [
        (
            snapshot.label,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.created)),
            printable(snapshot.spec.image.reference[:80]),
            " ".join(snapshot.volumes) or "-",
        )
        for snapshot in found
    ]
    context.report(table(("LABEL", "CREATED", "IMAGE", "VOLUMES"), rows))


VERBS = (
    Verb(
        "snapshot",
        "keep what a container is now, and go back to it",
        "Keep the files, the specification and, with --volumes, the data of the named volumes of a container.  "
        "--restore brings all of that back together, or nothing of it; what the container was before is gone then, "
        "but for its snapshots.  A container that runs is paused for a snapshot, and restored only with --restart.",
        _arguments,
        _run,
    ),
)
