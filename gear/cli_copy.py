"""The verb that copies files between the host and containers: cp."""

from __future__ import annotations

import argparse

from gear import copying, host
from gear.command import Context, Verb


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-a", "--archive", action="store_true", help="keep user and group ids, as the container sees them"
    )
    parser.add_argument(
        "-L",
        "--follow-link",
        action="store_true",
        help="copy what SOURCE leads to when it is a symbolic link",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="NAME:PATH, a path here, or - for a tar on standard input"
    )
    parser.add_argument(
        "target", metavar="TARGET", help="NAME:PATH, a path here, or - for a tar on standard output"
    )


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("copy files of containers")
    source, target = copying.parse(args.source), copying.parse(args.target)
    copying.copy(
        context.layout, source, target, copying.Options(args.archive, args.follow_link), context.warn
    )
    return 0


VERBS = (
    Verb(
        "cp",
        "copy files into containers and out of them",
        "Copy a file or a tree between the host and a container, which may run or not.  A path in a container is "
        "NAME:PATH; SOURCE/. means what is in a directory.  Symbolic links of the container never lead out of it.",
        _arguments,
        _run,
    ),
)
