"""The verbs of `gear image` about what is in the store: history, tag, prune, save, mount, unmount, verify.

Not what they do (gear/history.py, gear/images.py, gear/pruning.py, gear/saving.py, gear/imagemounts.py,
gear/verifying.py).
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from typing import Any

from gear import files, history, host, imagemounts, images, pruning, saving, store, verifying
from gear.cli_image import images_arguments
from gear.command import Context, Verb, add_output_option, agreed, for_each, label_filters, printable, table
from gear.errors import GearError, UsageError
from gear.model import Layout, absolute_path
from gear.progress import amount

# Columns of a table are cut here, unless --no-trunc is given.
_WIDTH = 60


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a reference, or 8 or more digits of a digest")
    parser.add_argument("--no-trunc", action="store_true", help="show long commands as a whole")
    add_output_option(parser)


def _history(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at images")
    steps = history.history(context.layout, args.image)
    if args.output == "json":
        context.report_json([step.document() for step in steps])
        return 0

    def shown(text: str) -> str:
        text = printable(" ".join(text.split()))
        return text if args.no_trunc or len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."

    rows = [
        (
            printable(step.created[:19]) or "-",
            amount(step.size),
            shown(step.created_by) or "-",
            shown(step.comment),
        )
        for step in steps
    ]
    context.report(table(("CREATED", "SIZE", "CREATED BY", "COMMENT"), rows))
    return 0


def _tag_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a reference, or 8 or more digits of a digest")
    parser.add_argument("targets", metavar="TARGET", nargs="+", help="what to call it as well")


def _tag(args: argparse.Namespace, context: Context) -> int:
    host.require_root("name images")
    for image in images.tag(context.layout, args.source, args.targets):
        context.report(f"{image.reference} {image.digest}")
    return 0


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="every image that no container uses")
    parser.add_argument("--until", metavar="TIME", help="only images created before: 24h, 30d, or a time")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME[=VALUE]", help="only images with this label"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask, even on a terminal")
    add_output_option(parser)


def _prune(args: argparse.Namespace, context: Context) -> int:
    host.require_root("remove images")
    labels = label_filters(args.label)
    until = None
    if args.until is not None:
        until = pruning.parse_until(args.until, datetime.datetime.now(datetime.UTC))
    wanted = pruning.Filter(until, tuple(labels))
    layout = context.layout
    asks = sys.stdin.isatty() and not args.yes and not args.dry_run and args.output != "json"
    if args.dry_run or asks:
        plan = pruning.plan(layout, unused=args.all, wanted=wanted)
        if args.output == "json":
            context.report_json(pruning.Pruned(plan.images, plan.size, ()).document())
            return 0
        _show_plan(context, plan)
        if args.dry_run or not plan.files or not agreed("Remove this?"):
            return 0
    # Containers are installed under this lock, so nobody starts to use an image meanwhile.
    with files.locked(layout.lock):
        done = pruning.prune(layout, pruning.plan(layout, unused=args.all, wanted=wanted))
    if args.output == "json":
        context.report_json(done.document())
    else:
        for item in done.images:
            context.report(f"removed {_called(item)}")
        context.report(f"{amount(done.size)} freed")
        for sentence in done.stayed:
            context.warn(sentence)
    return 0


def _show_plan(context: Context, plan: pruning.Plan) -> None:
    for item in plan.images:
        context.report(f"would remove {_called(item)}")
    context.report(f"{amount(plan.size)} in {len(plan.files)} files and layers would be freed")


def _called(item: pruning.Doomed) -> str:
    return f"{', '.join(item.references)} {item.digest}" if item.references else item.digest


def _save_arguments(parser: argparse.ArgumentParser) -> None:
    images_arguments(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; standard output if not given")


def _save(args: argparse.Namespace, context: Context) -> int:
    host.require_root("save images")
    if args.output is not None:
        path = absolute_path(os.path.join(os.getcwd(), args.output), "The archive")
        for image in saving.to_file(context.layout, args.images, path):
            context.report(f"{image.reference} {image.digest}")
        return 0
    if sys.stdout.isatty():
        raise UsageError(
            "An archive is not written to a terminal.", hint="Give --output FILE, or use a pipe."
        )
    descriptor = sys.stdout.fileno()
    try:
        saving.save(context.layout, args.images, lambda data: files.write_all(descriptor, data))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise files.explain(error, "write to standard output") from error
    return 0


def _mount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="without it, what is mounted is listed")
    parser.add_argument(
        "directory", nargs="?", metavar="DIR", help="an empty directory; one is made if not given"
    )
    add_output_option(parser)


def _mount(args: argparse.Namespace, context: Context) -> int:
    host.require_root("mount images")
    layout = context.layout
    if args.image is None:
        rows = _mounts(layout)
        if args.output == "json":
            context.report_json(rows)
        else:
            lines = [
                (row["directory"], row["digest"].partition(":")[2][:12], ", ".join(row["references"]))
                for row in rows
            ]
            context.report(table(("DIRECTORY", "DIGEST", "REFERENCES"), lines))
        return 0
    # Under the lock, so that the image is not removed between the look and the mount.
    with files.locked(layout.lock), store.lease(layout):
        image = store.resolve(layout, args.image)
        roots = [store.layer_root(layout, diff_id) for diff_id in image.layers]
        place = imagemounts.mount(layout, image.digest, roots, args.directory)
    if args.output == "json":
        context.report_json([row for row in _mounts(layout) if row["directory"] == place])
    else:
        context.report(place)
    return 0


def _mounts(layout: Layout) -> list[dict[str, Any]]:
    known = store.references(layout)
    return [
        {
            "directory": item.directory,
            "digest": item.digest,
            "references": [name for name, digest in known.items() if digest == item.digest],
        }
        for item in imagemounts.mounted(layout)
    ]


def _unmount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "mounts", nargs="*", metavar="IMAGE|DIR", help="where it is mounted, or which image it is"
    )
    parser.add_argument("-a", "--all", action="store_true", help="all that are mounted")


def _unmount(args: argparse.Namespace, context: Context) -> int:
    host.require_root("unmount images")
    if args.all == bool(args.mounts):
        raise UsageError("Give the images or directories to unmount, or --all.")
    layout = context.layout

    def one(text: str) -> None:
        digest = None
        if not text.startswith("/"):
            try:
                digest = store.resolve(layout, text).digest
            except GearError:  # it is a directory then
                digest = None
        for place in imagemounts.unmount(layout, text, digest):
            context.report(place)

    wanted = [item.directory for item in imagemounts.mounted(layout, ("self",))] if args.all else args.mounts
    return for_each(wanted, one, context)


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    images_arguments(parser)
    add_output_option(parser)


def _verify(args: argparse.Namespace, context: Context) -> int:
    host.require_root("verify images")
    found: list[verifying.Verified] = []

    def one(text: str) -> None:
        done = verifying.verify(context.layout, text)
        found.append(done)
        if args.output == "json":
            return
        for checked in done.checks:
            if not checked.faults:
                context.report(
                    f"{text} {done.digest}: {checked.check} is as it should be ({printable(checked.note)})"
                )
            for fault in checked.faults:
                context.report(f"{text} {done.digest}: {checked.check}: {printable(fault)}")

    status = for_each(args.images, one, context)
    if args.output == "json":
        context.report_json([done.document() for done in found])
    return max(status, 0 if all(done.passed for done in found) else 1)


VERBS: tuple[Verb, ...] = (
    Verb(
        "history",
        "show how an image was made",
        "List the steps that an image was made in, the latest first. JSON is an array of objects with created, "
        "created_by, comment, size (bytes, unpacked), digest (of the blob, empty where the step made no layer) and "
        "diffId.",
        _history_arguments,
        _history,
    ),
    Verb(
        "tag",
        "give an image more names",
        "Let each TARGET stand for the image SOURCE. Prints the references and the digest.",
        _tag_arguments,
        _tag,
    ),
    Verb(
        "prune",
        "remove images that nobody needs",
        "Remove images that have no reference and are used by no container and no mount, and everything that no image "
        "needs. With --all those with a reference go as well. On a terminal it shows what would go and asks. What "
        "another command needs at the moment stays, and that is said. JSON is an object with images (each with digest "
        "and references), bytes and stayed (sentences).",
        _prune_arguments,
        _prune,
    ),
    Verb(
        "save",
        "write images to an archive",
        "Write images to one archive, each blob once: an OCI layout with the manifest.json of docker save beside it. "
        "Manifests and configs are byte for byte those that came. gear image load, docker load, podman load and skopeo "
        "read it.",
        _save_arguments,
        _save,
    ),
    Verb(
        "mount",
        "show an image's files in a directory",
        "Mount an image read-only, without devices and set-user-ID programs, and print where. Without arguments list "
        "what is mounted. It is gone after a reboot; until then the image can't be removed. JSON is an array of "
        "objects with directory, digest and references.",
        _mount_arguments,
        _mount,
    ),
    Verb(
        "unmount",
        "end gear image mount",
        "Unmount images, by their names or by directory. Prints the directories.",
        _unmount_arguments,
        _unmount,
    ),
    Verb(
        "verify",
        "compare images with their digests and with the policy",
        "Read all of an image and compare it: every blob with its digest, the config with the layers, the unpacked "
        "layers, file by file, with what their blobs unpack to, and the signatures that came with it with the policy. "
        "JSON is an array of objects with reference, digest, "
        "passed and checks (each with check, passed, faults and note).",
        _verify_arguments,
        _verify,
    ),
)
