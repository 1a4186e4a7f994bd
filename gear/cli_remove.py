"""The verbs that take away: delete, purge, clean."""

from __future__ import annotations

import argparse
from functools import partial

from gear import files, host, leftovers, remove, snapshots
from gear.command import Context, Verb, add_output_option, for_each
from gear.model import container_name
from gear.systemd import Manager


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="an installed container")
    parser.add_argument(
        "--volumes", action="store_true", help="also its volumes that no other container uses"
    )


def _run_delete(args: argparse.Namespace, context: Context) -> int:
    host.require_root("delete containers")
    with Manager() as manager:

        def delete(name: str) -> None:
            kept = len(snapshots.labels(context.layout, container_name(name)))
            found = remove.delete(manager, context.layout, name, volumes=args.volumes)
            gone = f"{name} is deleted" + (f", and its snapshots: {kept}" if kept else "")
            context.report(gone if found else f"{name} is not installed, so nothing was deleted")
            for path in remove.drop_ins(context.layout, name):
                context.warn(f"your own settings for it are still in {path}")

        return for_each(args.names, delete, context)


def _purge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--volumes",
        action="store_true",
        help="also all volumes, with the data in them, secrets, configs and environment sets",
    )


def _run_purge(args: argparse.Namespace, context: Context) -> int:
    host.require_root("purge containers")
    status = 0
    with Manager() as manager:
        for name, error in remove.purge(manager, context.layout, volumes=args.volumes).items():
            if error is None:
                context.report(f"{name} is deleted")
            else:
                context.fail(error)
                status = max(status, error.exit_status)
    if status == 0:
        context.report("all containers, images and units of gear are gone")
        kept = [word for word, directory in remove.kept(context.layout).items() if directory.is_dir()]
        if kept:
            context.report(f"what is kept in {context.layout.state}: {', '.join(kept)}")
    return status


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", action="store_true", help="also images that no container was installed from"
    )
    parser.add_argument(
        "--volumes", action="store_true", help="also volumes that no container uses, with their data"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    add_output_option(parser)


def _interrupted(context: Context) -> list[leftovers.Leftover]:
    """Upgrades that were interrupted; finishing one takes as long as payloads do, and so is done without the lock."""
    from gear import unfinished, upgrade_record, upgrading

    def finish(name: str) -> None:
        with Manager() as manager:
            upgrading.recover(manager, context.layout, name)

    return [
        leftovers.Leftover(
            f"an upgrade of {name} that was interrupted, and is finished or undone now",
            upgrade_record.pending_path(context.layout, name),
            partial(finish, name),
        )
        for name in unfinished.directories(context.layout)
        if upgrade_record.abandoned(context.layout, name)
    ]


def _run_clean(args: argparse.Namespace, context: Context) -> int:
    host.require_root("clean up")
    found = _interrupted(context)
    for item in found if not args.dry_run else ():
        item.remove()
    upgrades = len(found)
    with files.locked(context.layout.lock):
        found += leftovers.leftovers(context.layout, with_images=args.images, with_volumes=args.volumes)
        for number, item in enumerate(found):
            if not args.dry_run and number >= upgrades:
                item.remove()
            if args.output != "json":
                verb = "would remove" if args.dry_run else "removed"
                context.report(f"{verb} {item.path}: {item.what}")
    if args.output == "json":
        context.report_json(
            [{"path": str(item.path), "what": item.what, "removed": not args.dry_run} for item in found]
        )
    elif not found:
        context.report("there is nothing to clean")
    return 0


VERBS = (
    Verb(
        "delete",
        "remove containers; volumes and images stay",
        "Stop containers and remove them with their unit, writable layer, snapshots and user id range.  Deleting one "
        "that is not installed is no error.",
        _delete_arguments,
        _run_delete,
    ),
    Verb(
        "purge",
        "remove everything that gear installed",
        "Delete all containers, images, slices, targets and the start helper.  Volumes, secrets, "
        "configs and environment sets stay unless --volumes is given.",
        _purge_arguments,
        _run_purge,
    ),
    Verb(
        "clean",
        "remove what no container refers to",
        "Remove what interrupted commands left behind, layers and blobs of no image, writable layers of earlier "
        "images and earlier versions of the start helper; on request images and volumes that no container uses.",
        _clean_arguments,
        _run_clean,
    ),
)
