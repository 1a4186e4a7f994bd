"""The verb for ad hoc containers: run."""

from __future__ import annotations

import argparse
import os
import sys

from gear import host, publishing, running, terminal
from gear.cli_exec import exec_options
from gear.cli_spec import have_image, options_of, spec_options
from gear.cli_supplies import warn
from gear.command import Context, Verb
from gear.errors import UsageError
from gear.model import container_name
from gear.systemd import Manager


def _arguments(parser: argparse.ArgumentParser) -> None:
    exec_options(parser)
    add = parser.add_argument
    add("-d", "--detach", action="store_true", help="as a service in the background; print its name")
    add("--rm", action="store_true", help="remove it with everything it has written when it ends")
    add("--name", metavar="NAME", type=container_name, help="what it is called; a free name if not given")
    spec_options(parser)
    # Docker's default: what is run once is not started again.
    parser.set_defaults(restart="no")
    add("image", metavar="IMAGE", help="what gear image list shows, or a directory as host:/PATH")
    add(
        "words",
        metavar="COMMAND",
        nargs=argparse.REMAINDER,
        help="instead of the image's, with its arguments",
    ).required = False


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("run containers")
    host.require_isolation()
    if args.interactive and args.tty and not os.isatty(0):
        raise UsageError("-t with -i needs a terminal, and standard input is none.", hint="Leave -t out.")
    if args.detach and (args.interactive or args.tty):
        raise UsageError("A container in the background can have neither input nor a terminal.")
    if args.restart != "no" and (args.rm or not args.detach):
        raise UsageError(
            "What is run in a terminal or removed in the end is not restarted.",
            hint="Leave --restart out, or use gear install.",
        )
    keys = terminal.detach_keys(args.detach_keys)
    name = args.name or running.free_name(context.layout)
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    args.names = [name]
    _, options = options_of(args, tuple(words) if args.words else None)
    if not args.detach:
        if options["health"].asks_for_prober:
            raise UsageError("Nobody looks after what is run in a terminal.", hint="Use --detach.")
        running.protect(options)
    warn(context, options["supplies"])
    args.image = have_image(args, context)
    with Manager() as manager:
        publishing.require_unit_directory(manager, context.layout)
        if args.detach:
            running.in_background(manager, context.layout, name, args.image, options, remove_it=args.rm)
            context.report(name)
            return 0
        sys.stdout.flush()
        streams = terminal.Streams(interactive=args.interactive, terminal=args.tty)
        try:
            return running.in_terminal(
                manager, context.layout, name, args.image, options, streams, keys, remove_it=args.rm
            )
        except running.Detached:
            print(f"\r\ndetached; {name} goes on", file=sys.stderr)
            return 0


VERBS = (
    Verb(
        "run",
        "run a container of an image once",
        "Run a container in this terminal, as the scope ctr-NAME.scope, and end with its exit status; with --detach as "
        "a transient service.  Options stand before IMAGE, and what stands after it is the command.",
        _arguments,
        _run,
        command_last=True,
    ),
)
