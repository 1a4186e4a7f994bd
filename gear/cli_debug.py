"""The verb for looking into a container that has no tools: debug."""

from __future__ import annotations

import argparse
import os
import sys

from gear import debugging, host, joining
from gear.cli_exec import attended, exec_options
from gear.command import Context, Verb
from gear.model import container_name


def _arguments(parser: argparse.ArgumentParser) -> None:
    exec_options(parser)
    parser.add_argument(
        "--image", metavar="IMAGE", help="take the tools of this image, not those of this machine"
    )
    parser.add_argument("name", metavar="NAME", type=container_name, help="a running container")
    words = parser.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="instead of a shell"
    )
    words.required = False


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("enter containers")
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words and os.isatty(0):
        args.interactive = args.tty = True
    elif not words:
        args.interactive = True
    target = joining.find(context.layout, args.name)
    joining.protect(target)
    print(f"the files of {args.name} are in {debugging.CONTAINER}", file=sys.stderr)
    return attended(args, lambda streams: debugging.run(context.layout, target, args.image, words, streams))


VERBS = (
    Verb(
        "debug",
        "run tools of this machine in a container's namespaces",
        "Run a shell, or another command, of this machine or of another image in the namespaces of a container, but "
        "with a root of its own: for images that have no shell.  Options stand before NAME.",
        _arguments,
        _run,
        command_last=True,
    ),
)
