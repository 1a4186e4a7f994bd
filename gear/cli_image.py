"""The verbs of `gear image`: their arguments and what they print.

Not what they do (gear/images.py, gear/loading.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from gear import changes, files, host, images
from gear.command import Context, Verb, add_output_option, for_each, printable, table
from gear.errors import UsageError
from gear.oci import Image
from gear.progress import amount
from gear.signals import signal_number


def _load_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", nargs="?", metavar="SOURCE", help="a directory, an archive, or - for standard input"
    )
    parser.add_argument("-i", "--input", metavar="SOURCE", help="the same, as docker load takes it")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="REFERENCE",
        help="what to call the image, or which of several to load; may be repeated",
    )
    add_output_option(parser)


def _load(args: argparse.Namespace, context: Context) -> int:
    from gear import loading  # which reads archives, and gear image list none

    if (args.source is None) == (args.input is None):
        raise UsageError("Give one SOURCE to load from.", hint="Standard input is `-`.")
    host.require_root("load images")
    _report(args, context, loading.load(context.layout, args.source or args.input, names=args.name))
    return 0


def _report(args: argparse.Namespace, context: Context, added: Sequence[Image]) -> None:
    """What was added: a line each, or the same as JSON."""
    if args.output == "json":
        context.report_json([{"reference": image.reference, "digest": image.digest} for image in added])
    else:
        for image in added:
            context.report(f"{image.reference} {image.digest}")


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="a directory, a tar archive, or - for standard input"
    )
    parser.add_argument("reference", metavar="REFERENCE", help="what to call the image")
    parser.add_argument(
        "--change", action="append", default=[], metavar="INSTRUCTION", help='as in CMD ["nginx"]'
    )
    parser.add_argument("--cmd", metavar="COMMAND", help="default arguments: words, or a JSON array")
    parser.add_argument("--entrypoint", metavar="COMMAND", help="the program: words, or a JSON array")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="an environment variable"
    )
    parser.add_argument("--user", metavar="USER[:GROUP]", help="who the program runs as")
    parser.add_argument("--workdir", metavar="PATH", help="its working directory")
    parser.add_argument("--stop-signal", metavar="SIGNAL", help="what asks it to end")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a label")
    parser.add_argument("--volume", action="append", default=[], metavar="PATH", help="a directory for data")
    parser.add_argument(
        "--expose", action="append", default=[], metavar="PORT[/PROTOCOL]", help="a port it serves"
    )
    add_output_option(parser)


def _import(args: argparse.Namespace, context: Context) -> int:
    from gear import loading

    host.require_root("import images")
    wanted = changes.Changes()
    for instruction in args.change:
        wanted.apply(instruction)
    if args.cmd is not None:
        wanted.cmd = changes.words(args.cmd)
    if args.entrypoint is not None:
        wanted.entrypoint = changes.words(args.entrypoint)
    wanted.env.update(changes.pair_list(args.env, "--env"))
    wanted.labels.update(changes.pair_list(args.label, "--label"))
    wanted.user = args.user or wanted.user
    wanted.workdir = args.workdir or wanted.workdir
    wanted.stop_signal = args.stop_signal or wanted.stop_signal
    if wanted.stop_signal:
        signal_number(wanted.stop_signal)
    wanted.volumes += args.volume
    wanted.ports += args.expose
    _report(args, context, [loading.import_root(context.layout, args.source, args.reference, changes=wanted)])
    return 0


def _list(args: argparse.Namespace, context: Context) -> int:
    host.require_root("list images")
    rows, faults = images.listing(context.layout)
    if args.output == "json":
        context.report_json([row.document() for row in rows])
    else:
        context.report(
            table(
                ("REFERENCE", "DIGEST", "SIZE", "CREATED", "ARCH"),
                [
                    (
                        printable(row.reference[:80]) or "-",
                        row.digest.partition(":")[2][:12],
                        amount(row.size),
                        printable(row.created[:10]) or "-",
                        printable(row.architecture[:80]) or "-",
                    )
                    for row in rows
                ],
            )
        )
    for fault in faults:
        context.fail(fault)
    return 1 if faults else 0


def _inspect(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at images")
    found: list[dict[str, Any]] = []
    status = for_each(args.images, lambda name: found.append(images.inspect(context.layout, name)), context)
    context.report_json(found)
    return status


def _remove(args: argparse.Namespace, context: Context) -> int:
    host.require_root("remove images")

    def one(name: str) -> None:
        # Containers are installed under this lock, so nobody starts to use the image meanwhile.
        with files.locked(context.layout.lock):
            in_use = images.in_use(context.layout)
            removed = images.remove(context.layout, name, in_use=in_use, warn=context.warn)
        for text in removed:
            context.report(text)

    return for_each(args.images, one, context)


def images_arguments(parser: argparse.ArgumentParser) -> None:
    """One or more images of the store."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a reference, or 8 or more digits of a digest"
    )


VERBS: tuple[Verb, ...] = (
    Verb(
        "load",
        "load images from a file",
        "Load the images of an OCI layout (a directory, or a tar of any compression) or of an archive by "
        "docker save. Prints the reference and the digest of each. Loading again what is here changes "
        "nothing.",
        _load_arguments,
        _load,
    ),
    Verb(
        "import",
        "make an image from a root file system",
        "Make an image of one layer from a directory or a tar archive of any compression. The options and "
        "the instructions of --change say how it is run. Prints the reference and the digest.",
        _import_arguments,
        _import,
    ),
    Verb(
        "list",
        "list the images on this host",
        "List the images on this host. JSON is an array of objects with reference (empty when it has none), "
        "digest, size (bytes, unpacked), created (RFC 3339), architecture and containers (names of those "
        "that use it).",
        add_output_option,
        _list,
    ),
    Verb(
        "inspect",
        "show all about images",
        "Print a JSON array with an object for each image: reference, references, digest, mediaType, "
        "index (the digest of the one that it came by), platforms (of that index, if all are here), signatures (the "
        "kinds of those that are kept), signers (the keys of the policy that made them), size (bytes, unpacked), "
        "created, architecture, os, layers (each with digest, mediaType, size and diffId, lowest first) "
        "and config (digest, entrypoint, cmd, env, user, workdir, stopSignal, labels, volumes, exposedPorts, "
        "healthcheck).",
        images_arguments,
        _inspect,
    ),
    Verb(
        "rm",
        "remove images",
        "Remove references, and the images that nothing refers to any more. An image that an installed "
        "container uses is never removed. Prints what was removed.",
        images_arguments,
        _remove,
    ),
)
