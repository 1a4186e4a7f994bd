"""The verbs of `gear image` that copy images between hosts: copy, and its other end, serve and receive."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gear import host
from gear.cli_registry import every_option, quiet_option
from gear.command import Context, Verb, add_output_option, printable
from gear.errors import GearError, UsageError

if TYPE_CHECKING:
    from gear.offering import Result

# The modules that know the network are imported by the verbs: `gear image list` need not pay for them.
SEPARATOR = "::"
EVERY = "the index, and what it has for other platforms, as well"


def _copy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="what to send, of this host")
    parser.add_argument(
        "place",
        metavar="HOST[::IMAGE]",
        help="[USER@]HOST to send to; or, for each image, HOST::IMAGE to get it from there",
    )
    every_option(parser, EVERY)
    parser.add_argument(
        "--remote-command",
        metavar="COMMAND",
        default="gear",
        help="how to run gear there, as in 'sudo gear'",
    )
    quiet_option(parser)
    add_output_option(parser)


def sides(words: list[str]) -> tuple[str, list[str], bool]:
    """The other host, the images, and whether they come from there."""
    there = [word.partition(SEPARATOR) for word in words if SEPARATOR in word]
    if len(there) == len(words) and all(image for _, _, image in there):
        hosts = {name for name, _, _ in there}
        if len(hosts) > 1:
            raise UsageError(
                f"Images are copied from one host at a time, not from {' and '.join(sorted(hosts))}."
            )
        return there[0][0], [image for _, _, image in there], True
    if len(words) < 2:
        raise UsageError(
            "Give images and where they go.",
            hint="gear image copy IMAGE HOST, or gear image copy HOST::IMAGE",
        )
    *names, last = words
    last = last.removesuffix(SEPARATOR)
    if any(SEPARATOR in word for word in (*names, last)):
        raise UsageError("Images are copied to a host or from one, not both at once.")
    return last, names, False


def _copy(args: argparse.Namespace, context: Context) -> int:
    from gear import progress, sending

    host.require_root("copy images")
    destination, names, from_there = sides([*args.images, args.place])
    peer = sending.Peer(destination, args.remote_command)
    work = sending.take if from_there else sending.send

    def tell(line: str) -> None:
        context.warn(f"{peer.name}: {printable(line)}")

    with progress.shown(quiet=args.quiet) as shown:
        result = work(context.layout, names, peer, every=args.all_platforms, progress=shown, tell=tell)
    return _report(args, context, result)


def _report(args: argparse.Namespace, context: Context, result: Result) -> int:
    if args.output == "json":
        context.report_json(
            [
                {"reference": image.reference, "digest": image.digest, "changed": changed}
                for image, changed in zip(result.images, result.changed, strict=True)
            ]
        )
    else:
        for image in result.images:
            context.report(f"{printable(image.reference)} {image.digest}")
    for message in result.errors:
        context.fail(GearError(message))
    return 1 if result.errors else 0


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a reference, or 8 or more digits of a digest"
    )
    every_option(parser, EVERY)


def _serve(args: argparse.Namespace, context: Context) -> int:
    from gear import progress, sending

    host.require_root("copy images")
    with progress.shown(quiet=True) as shown:
        sending.serve(context.layout, args.images, every=args.all_platforms, progress=shown)
    return 0


def _receive(args: argparse.Namespace, context: Context) -> int:
    from gear import progress, sending

    host.require_root("copy images")
    with progress.shown(quiet=args.quiet) as shown:
        result = sending.receive(context.layout, shown)
    return 1 if result.errors else 0


VERBS: tuple[Verb, ...] = (
    Verb(
        "copy",
        "copy images to another host, or from it",
        "Copy images between two hosts with gear, over ssh: IMAGE... HOST sends, HOST::IMAGE... gets. Only "
        "layers that the other side lacks are sent, and everything is verified where it arrives. Prints the "
        "reference and the digest of each. JSON is an array of objects with reference, digest and changed "
        "(whether the reference stood for another image there).",
        _copy_arguments,
        _copy,
    ),
    Verb(
        "serve",
        "the sending end of copy",
        "Offer images to another gear on standard input and output. `gear image copy` runs this by ssh.",
        _serve_arguments,
        _serve,
    ),
    Verb(
        "receive",
        "the receiving end of copy",
        "Get the images that another gear offers on standard input and output. `gear image copy` runs this by "
        "ssh; as the only command that a key in authorized_keys may run it lets others bring images, and "
        "nothing else.",
        quiet_option,
        _receive,
    ),
)
