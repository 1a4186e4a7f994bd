"""The verbs of `gear volume` about volumes as such: create, list, inspect, resize, rm, prune."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from gear import host, volume_record, volumes, volumestore
from gear.command import Context, Verb, add_output_option, agreed, for_each, label_filters, labels_of, table
from gear.errors import UsageError
from gear.members import container_path
from gear.mounting import volume_name
from gear.progress import amount
from gear.volumes import Wishes


def new_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that makes a volume of nothing."""
    parser.add_argument(
        "--size", metavar="SIZE", help="the most that it may take, for example 10g, where the file system can"
    )
    parser.add_argument(
        "-l", "--label", metavar="NAME[=VALUE]", action="append", default=[], help="a note of your own"
    )


def name_argument(parser: argparse.ArgumentParser, name: str = "name", metavar: str = "VOLUME") -> None:
    """One volume."""
    parser.add_argument(name, metavar=metavar, type=volume_name, help="the name of a volume")


def size_of(text: str | None) -> int | None:
    """The bytes that `--size` gives; raises UsageError."""
    return None if text is None else volume_record.parse_limit(text)


def _owner(text: str) -> tuple[int, int]:
    user, _, group = text.partition(":")
    numbers = [
        int(part) if part.isascii() and part.isdigit() and len(part) < 11 else -1
        for part in (user, group or user)
    ]
    if not all(0 <= number < (1 << 32) - 1 for number in numbers):
        raise UsageError(f"{text[:40]!r} is no owner.", hint="Write UID or UID:GID, as they are inside.")
    return numbers[0], numbers[1]


def _mode(text: str) -> int:
    if not 3 <= len(text) <= 4 or set(text) - set("01234567"):
        raise UsageError(f"{text[:40]!r} is no mode.", hint="Write it as 0750.")
    return int(text, 8)


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    name_argument(parser)
    new_options(parser)
    add = parser.add_argument
    add("--owner", metavar="UID[:GID]", help="whose the volume is, as containers see it")
    add("--mode", metavar="MODE", help="its access rights, for example 0750")
    add("--from-image", metavar="IMAGE:/DIRECTORY", help="fill it with what an image has there")


def _create(args: argparse.Namespace, context: Context) -> int:
    host.require_root("make volumes")
    image, path = (None, "/") if args.from_image is None else volumes.source_of(args.from_image)
    wishes = Wishes(
        labels_of(args.label),
        size_of(args.size),
        None if args.owner is None else _owner(args.owner),
        None if args.mode is None else _mode(args.mode),
        image,
        container_path(path, "The directory of the image"),
    )
    made = volumes.create(context.layout, args.name, wishes)
    context.report(f"{args.name} is made" if made else f"{args.name} is there already, so nothing was made")
    return 0


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="names only, one a line")
    parser.add_argument("--unused", action="store_true", help="only those that no container has")
    add_output_option(parser)


def _list(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at volumes")
    layout, used_by = context.layout, volumes.users(context.layout)
    names = [name for name in volumestore.names(layout) if not (args.unused and name in used_by)]
    if args.quiet and args.output != "json":
        for name in names:
            context.report(name)
        return 0
    rows: list[dict[str, Any]] = []
    status = for_each(names, lambda name: rows.append(volumes.details(layout, name, used_by)), context)
    if args.output == "json":
        context.report_json(rows)
    else:
        cells = [
            (
                row["name"],
                row["driver"],
                amount(row["used"]),
                "-" if row["size"] is None else amount(row["size"]),
                " ".join(row["containers"]) or "-",
            )
            for row in rows
        ]
        context.report(table(("NAME", "DRIVER", "USED", "LIMIT", "CONTAINERS"), cells))
    return status


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="VOLUME", nargs="+", type=volume_name, help="the name of a volume")


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser)
    parser.add_argument("--output", choices=("json",), default="json", help="inspect always prints JSON")


def _inspect(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at volumes")
    documents: list[dict[str, Any]] = []
    used_by = volumes.users(context.layout)
    status = for_each(
        args.names, lambda name: documents.append(volumes.details(context.layout, name, used_by)), context
    )
    context.report_json(documents)
    return status


def _resize_arguments(parser: argparse.ArgumentParser) -> None:
    name_argument(parser)
    parser.add_argument("size", metavar="SIZE", help="the most that it may take, for example 10g; or none")


def _resize(args: argparse.Namespace, context: Context) -> int:
    host.require_root("limit volumes")
    size = size_of(args.size)
    changed = volumes.resize(context.layout, args.name, size)
    now = "has no limit" if size is None else f"may take {size} bytes"
    context.report(f"{args.name} {now}" + ("" if changed else " already"))
    return 0


def _rm(args: argparse.Namespace, context: Context) -> int:
    host.require_root("remove volumes")

    def one(name: str) -> None:
        found = volumes.remove(context.layout, name)
        context.report(f"{name} is removed" if found else f"{name} is no volume, so nothing was removed")

    return for_each(args.names, one, context)


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="also those that somebody gave a name")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME[=VALUE]", help="only volumes with this label"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask, even on a terminal")
    add_output_option(parser)


def _prune(args: argparse.Namespace, context: Context) -> int:
    host.require_root("remove volumes")
    layout = context.layout
    labels = label_filters(args.label)
    json = args.output == "json"
    doomed = volumes.unused(layout, named=args.all, labels=labels)
    asks = sys.stdin.isatty() and not args.yes and not json
    if args.dry_run or asks:
        for name in doomed if not json else ():
            context.report(f"would remove {name}")
        if args.dry_run and json:
            context.report_json({"volumes": doomed})
        if args.dry_run or not doomed or not agreed("Remove these volumes with all their data?"):
            return 0
    removed: list[str] = []

    def one(name: str) -> None:
        # Whoever has it by now is told, and it stays.
        if volumes.remove(layout, name):
            removed.append(name)

    status = for_each(doomed, one, context)
    if json:
        context.report_json({"volumes": removed})
    else:
        for name in removed:
            context.report(f"removed {name}")
        if not removed:
            context.report("there is nothing to remove")
    return status


VERBS: tuple[Verb, ...] = (
    Verb(
        "create",
        "make a volume",
        "Make the volume VOLUME for containers to be installed with.  It is filled with what the image of the first "
        "one has there, unless it is given an owner, a mode or the files of an image now.  Making it again with the "
        "same labels and limit changes nothing.",
        _create_arguments,
        _create,
    ),
    Verb(
        "list",
        "list the volumes",
        "List the volumes, how they are kept, what they take, what they may take, and the containers that have them.",
        _list_arguments,
        _list,
    ),
    Verb(
        "inspect",
        "print everything about volumes as JSON",
        "Print what is known of each volume.  size is the limit that was asked for, limit the one that the kernel "
        "keeps to, used what it takes, all in bytes.",
        _inspect_arguments,
        _inspect,
    ),
    Verb(
        "resize",
        "limit what a volume may take",
        "Let VOLUME take SIZE bytes at most from now on, or with `none` as many as there are.  It holds at once.  What "
        "is more already stays.",
        _resize_arguments,
        _resize,
    ),
    Verb(
        "rm",
        "remove volumes that no container has",
        "Remove volumes with their data and snapshots.  One that a container has, running or not, or had when a "
        "snapshot was taken of it, is refused.  Removing one that is not there is no error.",
        _names,
        _rm,
    ),
    Verb(
        "prune",
        "remove volumes that nobody needs",
        "Remove the volumes that images declared and no container has any more.  With --all those that somebody gave a "
        "name go as well.  On a terminal it shows what would go and asks.  JSON is an object with volumes.",
        _prune_arguments,
        _prune,
    ),
)
