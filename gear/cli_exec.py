"""The verb that runs a command in a container that runs: exec.

Its imports are part of what gear exec costs, so this module has none that it can do without.
"""

from __future__ import annotations

import argparse
import os
import sys

from gear import joining, terminal
from gear.command import Context, Verb, environment_options
from gear.errors import HostError, UsageError
from gear.model import container_name


def exec_options(parser: argparse.ArgumentParser) -> None:
    """What docker exec has as well; shared with gear debug."""
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass standard input on")
    add("-t", "--tty", action="store_true", help="give the command a terminal of its own")
    add(
        "--detach-keys",
        metavar="KEYS",
        default="ctrl-p,ctrl-q",
        help="what to type to leave a terminal (ctrl-p,ctrl-q)",
    )


def _arguments(parser: argparse.ArgumentParser) -> None:
    exec_options(parser)
    add = parser.add_argument
    add("-u", "--user", metavar="USER[:GROUP]", help="run as this user of the container, by name or number")
    add("-w", "--workdir", metavar="DIRECTORY", help="start in this directory of the container")
    environment_options(parser)
    add("-d", "--detach", action="store_true", help="do not wait for its end")
    add("--privileged", action="store_true", help="with every capability and without the seccomp filter")
    add("name", metavar="NAME", type=container_name, help="a running container")
    add("words", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run, and its arguments")


def _run(args: argparse.Namespace, context: Context) -> int:
    if os.geteuid() != 0:
        raise HostError("Only root can enter containers.", hint="Run the same command with sudo.")
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words:
        raise UsageError("No command is given.", hint=f"gear exec {args.name} -- COMMAND [ARGUMENT ...]")
    if args.detach and (args.interactive or args.tty):
        raise UsageError("A command that nobody waits for can have neither input nor a terminal.")
    wanted = joining.Wanted(
        words,
        args.user,
        None if args.workdir is None else joining.working_directory(args.workdir),
        _environment(args),
        args.privileged,
    )
    target = joining.find(context.layout, args.name)
    joining.protect(target)
    return attended(args, lambda streams: joining.run(target, wanted, streams))


def attended(args: argparse.Namespace, make) -> int:  # type: ignore[no-untyped-def]
    """Make a process with *make*, copy between it and the caller until it ends; returns its exit status."""
    if args.interactive and args.tty and not os.isatty(0):
        raise UsageError("-t with -i needs a terminal, and standard input is none.", hint="Leave -t out.")
    keys = terminal.detach_keys(args.detach_keys)
    sys.stdout.flush()
    streams = terminal.Streams(
        interactive=args.interactive, terminal=args.tty, discard=getattr(args, "detach", False)
    )
    pid = make(streams)
    if getattr(args, "detach", False):
        return 0
    status = streams.relay(pid, keys)
    if status is None:
        terminal.drain(streams.master)
        print("\r\ndetached; the command goes on", file=sys.stderr)
        return 0
    return terminal.exit_status(status)


def _environment(args: argparse.Namespace) -> dict[str, str]:
    if not args.env and not args.env_file:
        return {}
    from gear.variables import environment  # slow to import, and rarely needed

    return environment(args.env, args.env_file)


VERBS = (
    Verb(
        "exec",
        "run a command in a container",
        "Run a further command in a running container: in all of its namespaces, in its control group, with its "
        "capabilities, seccomp filter and environment.  gear ends with the command's exit status.  Options stand "
        "before NAME.",
        _arguments,
        _run,
        command_last=True,
    ),
)
