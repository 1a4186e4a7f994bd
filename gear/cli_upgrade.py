"""The verbs that move containers to other images and back: upgrade, rollback, lock."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gear import cli_upgrade_state, composing, containers, durations, host, schedule, upgrade_record
from gear.command import Context, Verb, add_output_option, for_each, printable, table
from gear.errors import GearError, UsageError
from gear.model import container_name
from gear.systemd import Manager

if TYPE_CHECKING:
    from gear.oci import Image
    from gear.registries import Registries
    from gear.spec import Spec

# The modules that know the network are imported by what needs them.

_LONGEST_SETTLE_S = 3600.0


def _end_in_order() -> None:
    """Have SIGTERM, as at a shutdown, end an upgrade by taking it back."""

    def end(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # What the terminal's interrupt raises; nobody takes it for an error of what is being done.
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def _settle_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settle", metavar="SECONDS", help="how long it has to stay up before that counts as a success (3)"
    )


def _settle(args: argparse.Namespace) -> float:
    from gear import upgrading

    if args.settle is None:
        return upgrading.SETTLE_S
    return durations.within(args.settle, 0, _LONGEST_SETTLE_S, "time to stay up")


def _upgrade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="*", type=container_name, help="an installed container"
    )
    parser.add_argument("-a", "--all", action="store_true", help="every installed container")
    parser.add_argument(
        "--image", metavar="IMAGE", help="move to this image instead of its own name's newest"
    )
    parser.add_argument(
        "--locked", metavar="FILE", help="move to the digest that this lock file has, and no other"
    )
    parser.add_argument(
        "--no-pull", action="store_true", help="ask no registry: take what the name means here"
    )
    parser.add_argument(
        "--snapshot-volumes",
        action="store_true",
        help="keep the data of its named volumes as it is now, to go back to together with the image",
    )
    _settle_option(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="only say whether there is another image; nothing is pulled"
    )
    what.add_argument(
        "--dry-run", action="store_true", help="the same as --check, and what files would change"
    )
    what.add_argument("--history", action="store_true", help="show what became of the last upgrades")
    what.add_argument(
        "--schedule", metavar="TIME", help="upgrade it at these times, as systemd.time(7) writes them"
    )
    what.add_argument("--unschedule", action="store_true", help="upgrade it by hand only")
    parser.add_argument(
        "--random-delay", metavar="TIME", help="with --schedule: up to this much later, as in 30m or 2h"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_output_option(parser)


def _run_upgrade(args: argparse.Namespace, context: Context) -> int:
    host.require_root("upgrade containers")
    if bool(args.names) == args.all:
        raise UsageError("Give the names of containers, or --all.", hint="gear upgrade --help")
    if args.random_delay is not None and args.schedule is None:
        raise UsageError("--random-delay only means something with --schedule.")
    if args.image is not None and args.locked is not None:
        raise UsageError("--image and --locked both say which image is meant.", hint="Leave one of them out.")
    if args.schedule is not None and (args.image or args.locked or args.no_pull):
        raise UsageError("A timer moves containers to the newest image of their own name.")
    if args.all:
        every = containers.names(context.layout)
        args.names = [name for name in every if containers.run_of(context.layout, name) is None]
    if args.history:
        return _history(args, context)
    if args.schedule is not None or args.unschedule:
        return _schedule(args, context)
    return _upgrade(args, context)


def _upgrade(args: argparse.Namespace, context: Context) -> int:
    from gear import registries, upgrading

    settle = _settle(args)
    only_look = args.check or args.dry_run
    _end_in_order()
    settings = None if args.no_pull else registries.load(context.layout)
    rows: list[dict[str, Any]] = []
    with Manager() as manager:

        def one(name: str) -> None:
            if not only_look:
                cli_upgrade_state.finish(manager, context, [name])
            spec = containers.get(context.layout, name)
            row, image = _candidate(args, context, spec, settings)
            rows.append(row)
            if image is not None and args.dry_run:
                from gear import install

                target = upgrading.with_image(spec, image)
                row["files"] = [str(path) for path in install.preview(context.layout, target, image)]
            if image is not None and not only_look:
                done = upgrading.upgrade(
                    manager, context.layout, name, image, volumes=args.snapshot_volumes, settle=settle
                )
                row["action"] = "unchanged" if done is None else "upgraded"
            if args.output != "json":
                context.report(_sentence(row, only_look=only_look))

        status = for_each(args.names, one, context)
    if args.output == "json":
        context.report_json(rows)
    return status


def _candidate(
    args: argparse.Namespace, context: Context, spec: Spec, settings: Registries | None
) -> tuple[dict[str, Any], Image | None]:
    """What there is to say of the image that *spec* may move to, and the image, pulled unless that was only asked for;
    None when there is nothing to move to, or it is not here."""
    from gear import locking, pulling

    row: dict[str, Any] = {
        "name": spec.name,
        "reference": spec.image.reference,
        "digest": spec.image.digest,
        "available": spec.image.digest,
        "newer": False,
        "pinned": spec.image.directory is not None or "@" in spec.image.reference,
        "action": "unchanged",
    }
    only_look = args.check or args.dry_run
    if args.locked is not None:
        path = Path(args.locked)
        if spec.image.directory is not None:
            return row, None
        reference, digest = locking.pinned(locking.read(path), spec.image.reference, path)
        row |= {"available": digest, "newer": digest != spec.image.digest}
        if not row["newer"]:
            return row, None
        try:
            return row, locking.have(context.layout, reference, digest, pull=False)
        except GearError:
            if only_look:
                return row, None
        with _progress(args) as shown:
            return row, locking.have(context.layout, reference, digest, pull=not args.no_pull, progress=shown)
    if args.image is None and (row["pinned"] or spec.image.reference == spec.image.digest):
        row["pinned"] = True
        return row, None
    text = args.image or spec.image.reference
    if composing.is_directory(text):
        raise UsageError("A directory of this host is no image to upgrade to.", hint="gear install")
    found = pulling.newest(context.layout, text, settings)
    image = found.here
    row["available"] = image.digest if image is not None else found.digest
    row["newer"] = row["available"] != spec.image.digest
    if image is None and not only_look:
        with _progress(args) as shown:
            done = pulling.pull(context.layout, text, settings=settings, progress=shown)
        image = composing.resolve(context.layout, done.reference)
        row |= {"available": image.digest, "newer": image.digest != spec.image.digest}
    if image is not None:
        row["reference"] = image.reference
    return row, image if row["newer"] else None


def _progress(args: argparse.Namespace) -> Any:
    from gear import progress

    return progress.shown(quiet=args.quiet)


def _sentence(row: dict[str, Any], *, only_look: bool) -> str:
    name, reference = row["name"], printable(row["reference"])
    if row["action"] == "upgraded":
        return f"{name} is upgraded to {reference} ({row['available']})"
    if row["newer"]:
        said = f"{name} can be upgraded to {reference} ({row['available']})"
        changed = row.get("files")
        return said if not changed else f"{said}, which changes {', '.join(changed)}"
    if row["pinned"]:
        return f"{name} has an image that is fixed, {reference}, so there is nothing to upgrade to"
    return f"{name} has the newest image of {reference}"


def _history(args: argparse.Namespace, context: Context) -> int:
    found: dict[str, list[upgrade_record.Entry]] = {}

    def one(name: str) -> None:
        containers.get(context.layout, name)
        found[name] = list(upgrade_record.read(context.layout, name).history)

    status = for_each(args.names, one, context)
    if args.output == "json":
        context.report_json([{"name": name} | entry.document() for name in found for entry in found[name]])
        return status
    rows = [
        (
            name,
            cli_upgrade_state.moment(entry.time),
            entry.kind,
            _short(entry.origin),
            _short(entry.target),
            entry.result,
            printable(entry.reason) or "-",
        )
        for name in found
        for entry in found[name]
    ]
    context.report(table(("NAME", "TIME", "KIND", "FROM", "TO", "RESULT", "REASON"), rows))
    return status


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:12] or "-"


def _schedule(args: argparse.Namespace, context: Context) -> int:
    from gear import files, publishing, scheduling

    with Manager() as manager:
        publishing.require_unit_directory(manager, context.layout)

        def one(name: str) -> None:
            containers.get(context.layout, name)
            if args.unschedule:
                with files.locked(context.layout.lock):
                    known = scheduling.remove(manager, context.layout, name)
                context.report(f"{name} is {'no longer' if known else 'not'} upgraded by itself")
                return
            delay = 0 if args.random_delay is None else schedule.parse_delay(args.random_delay)
            wanted = schedule.Schedule(
                schedule.calendar(args.schedule), delay, scheduling.program(), args.snapshot_volumes
            )
            scheduling.put(manager, context.layout, name, wanted)
            said = scheduling.state(manager, context.layout, name)
            context.report(f"{name} is upgraded by {schedule.timer(name)}{next_run(said)}")

        return for_each(args.names, one, context)


def next_run(state: dict[str, Any] | None) -> str:
    """When the next upgrade is, in words."""
    if state is None or state["next"] is None:
        return ", at no time that is to come"
    return f", next on {cli_upgrade_state.moment(state['next'])}"


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="+", type=container_name, help="an installed container"
    )
    parser.add_argument(
        "--volumes",
        action="store_true",
        help="also the data of its named volumes; what they hold now is kept for going forward again",
    )
    _settle_option(parser)
    add_output_option(parser)


def _run_rollback(args: argparse.Namespace, context: Context) -> int:
    from gear import upgrading

    host.require_root("roll containers back")
    settle = _settle(args)
    _end_in_order()
    rows = []
    with Manager() as manager:

        def one(name: str) -> None:
            cli_upgrade_state.finish(manager, context, [name])
            done = upgrading.rollback(manager, context.layout, name, volumes=args.volumes, settle=settle)
            rows.append({"name": name} | done.document())
            if args.output != "json":
                image = containers.get(context.layout, name).image
                context.report(f"{name} is back at {printable(image.reference)} ({image.digest})")

        status = for_each(args.names, one, context)
    if args.output == "json":
        context.report_json(rows)
    return status


def _lock_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        type=container_name,
        help="an installed container; all if left out",
    )
    parser.add_argument("--file", metavar="FILE", default="gear.lock", help="the file to write (gear.lock)")


def _run_lock(args: argparse.Namespace, context: Context) -> int:
    from gear import locking

    host.require_root("look at containers")
    names: Sequence[str] = args.names or containers.names(context.layout)
    path = Path(args.file)
    images = locking.pins(context.layout, names)
    if args.names and path.exists():
        images = locking.read(path) | images
    changed = locking.write(path, images)
    context.report(f"{path} {'has' if changed else 'had'} the digests of {len(images)} images")
    return 0


VERBS = (
    Verb(
        "upgrade",
        "move containers to the newest image of their name",
        "Pull what the name of a container's image stands for now and, if that is another image, move the container to "
        "it: it is started anew if it runs, and has to stay up.  If it does not, it is again what it was before, with "
        "--snapshot-volumes also the data of its volumes, and the reason is told.  Clients of ports of mode socket and "
        "fd wait meanwhile.",
        _upgrade_arguments,
        _run_upgrade,
    ),
    Verb(
        "rollback",
        "make containers what they were before their last upgrade",
        "Go back to the image, the specification and the writable layer that containers had before the last gear "
        "upgrade, with --volumes also to the data of their volumes.  A second rollback goes forward again.",
        _rollback_arguments,
        _run_rollback,
    ),
    Verb(
        "lock",
        "write down which images containers run",
        "Write the digests of the images of containers to a file for version control.  gear install --locked and gear "
        "upgrade --locked take exactly these.",
        _lock_arguments,
        _run_lock,
    ),
)
