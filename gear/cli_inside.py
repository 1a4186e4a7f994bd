"""The verbs that deal with a container that runs: kill, pause, resume, top, attach."""

from __future__ import annotations

import argparse
import sys
import time

from gear import host, inside, signals
from gear.command import Context, Verb, add_output_option, for_each, printable, table
from gear.model import container_name
from gear.systemd import Manager


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", type=container_name, help="a running container")


def _kill_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s", "--signal", metavar="SIGNAL", default="SIGKILL", help="by name or number (SIGKILL)"
    )
    _names(parser)


def _run_kill(args: argparse.Namespace, context: Context) -> int:
    number = signals.signal_number(args.signal)
    host.require_root("signal containers")
    with Manager() as manager:

        def kill(name: str) -> None:
            inside.kill(manager, context.layout, name, number)
            context.report(f"{name} was sent {args.signal}")

        return for_each(args.names, kill, context)


def _run_pause(args: argparse.Namespace, context: Context) -> int:
    host.require_root("pause containers")
    with Manager() as manager:

        def pause(name: str) -> None:
            done = inside.pause(manager, context.layout, name)
            context.report(f"{name} is paused" if done else f"{name} is paused already")

        return for_each(args.names, pause, context)


def _run_resume(args: argparse.Namespace, context: Context) -> int:
    host.require_root("resume containers")
    with Manager() as manager:

        def resume(name: str) -> None:
            done = inside.resume(manager, context.layout, name)
            context.report(f"{name} runs again" if done else f"{name} is not paused")

        return for_each(args.names, resume, context)


def _top_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=container_name, help="a running container")
    add_output_option(parser)


def _run_top(args: argparse.Namespace, context: Context) -> int:
    from gear import top

    host.require_root("look into containers")
    with Manager() as manager:
        rows = top.table(inside.running(manager, context.layout, args.name))
    if args.output == "json":
        context.report_json(rows)
        return 0
    header = ("PID", "INSIDE", "USER", "STATE", "STARTED", "TIME", "COMMAND")
    context.report(
        table(
            header,
            [
                (
                    str(row["pid"]),
                    str(row["inner_pid"]),
                    printable(row["user"]),
                    row["state"],
                    time.strftime("%b %d %H:%M:%S", time.localtime(row["started"])),
                    _duration(row["cpu_seconds"]),
                    printable(row["command"]),
                )
                for row in rows
            ],
        )
    )
    return 0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest:02d}"


def _attach_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sig-proxy", action="store_true", help="pass signals on to the payload instead of acting on them"
    )
    parser.add_argument("name", metavar="NAME", type=container_name, help="a running container")


def _run_attach(args: argparse.Namespace, context: Context) -> int:
    from gear import attach, files

    host.require_root("attach to containers")
    sys.stdout.flush()

    def write(data: bytes) -> None:
        files.write_all(1, data)

    with Manager() as manager:
        try:
            return attach.attach(manager, context.layout, args.name, write, sig_proxy=args.sig_proxy)
        except KeyboardInterrupt:
            print(f"detached; {args.name} goes on", file=sys.stderr)
            return 0


VERBS = (
    Verb(
        "kill",
        "send a signal to the payload",
        "Send a signal to the main process of containers.  PID 1 acts on its end as the restart policy says; to end a "
        "container for good use gear stop.",
        _kill_arguments,
        _run_kill,
    ),
    Verb(
        "pause",
        "freeze every process of containers",
        "Have the kernel freeze every process of containers, until gear resume.  Needs cgroup v2.",
        _names,
        _run_pause,
    ),
    Verb(
        "resume",
        "let paused containers run again",
        "Thaw containers that gear pause has frozen.",
        _names,
        _run_resume,
    ),
    Verb(
        "top",
        "show the processes of a container",
        "List the processes of a container, as the host's kernel knows them.  Nothing of the container is executed.",
        _top_arguments,
        _run_top,
    ),
    Verb(
        "attach",
        "print what a container writes until it ends",
        "Print what the payload writes from now on until it ends, and end with its exit status.  Ctrl-C detaches and "
        "leaves the container running.",
        _attach_arguments,
        _run_attach,
    ),
)
