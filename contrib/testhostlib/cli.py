"""The command line of testhost: the only module that prints, and that ends the process."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import disks, images, launch, needs, recipe, state, supervisor, trees
from .errors import ToolError, UsageError
from .host import Host, shell_status
from .places import Places

Verb = Callable[[argparse.Namespace, Places], int]

# The exit status of 'run' and 'shell' when testhost itself failed, so that it isn't taken for the command's.
OWN_FAILURE = 125


def build(args: argparse.Namespace, places: Places) -> int:
    for release in args.release:
        make = disks.build_disk if args.vm else trees.build_tree
        print(make(release, extra=args.extra, places=places))
    return 0


def boot(args: argparse.Namespace, places: Places) -> int:
    host = launch.boot(
        args.release,
        vm=args.vm,
        extra=args.extra,
        name=args.name,
        owner=args.owner,
        binds=[parse_bind(text) for text in args.bind],
        memory=args.memory,
        storage=args.persistent_dir,
        timeout=args.timeout,
        places=places,
    )
    print(host.name)
    return 0


def parse_bind(text: str) -> tuple[str, str]:
    source, colon, target = text.partition(":")
    if not source or not target:
        raise UsageError(f"--bind wants SRC:DST, not {text!r}")
    return source, target


def parse_env(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word.lstrip("="):
            raise UsageError(f"-e wants K=V, not {word!r}")
    return dict(word.split("=", 1) for word in words)


def run(args: argparse.Namespace, places: Places) -> int:
    if not args.command:
        raise UsageError("run wants a command", hint="testhost run NAME -- CMD...")
    host = launch.find(args.host, places=places)
    return passed_through(host, args.command, env=parse_env(args.env), tty=args.tty, timeout=args.timeout)


def shell(args: argparse.Namespace, places: Places) -> int:
    return passed_through(
        launch.find(args.host, places=places), ["bash", "-l"], env={}, tty=True, timeout=None
    )


def passed_through(
    host: Host, argv: list[str], *, env: dict[str, str], tty: bool, timeout: float | None
) -> int:
    process = host.popen(argv, env=env, tty=tty, timeout=timeout)
    while True:
        try:
            return shell_status(process.wait(timeout))
        except KeyboardInterrupt:
            continue  # the terminal has sent it to the command, too; what happens is its decision
        except subprocess.TimeoutExpired as err:
            process.kill()
            process.wait()
            raise ToolError(f"{host.name}: {argv[0]} did not end within {timeout:g} s") from err


def copy(args: argparse.Namespace, places: Places) -> int:
    launch.find(args.host, places=places).copy(args.src, args.dst)
    return 0


def fetch(args: argparse.Namespace, places: Places) -> int:
    launch.find(args.host, places=places).fetch(args.src, args.dst)
    return 0


def journal(args: argparse.Namespace, places: Places) -> int:
    host = launch.find(args.host, places=places)
    if host.kind == "nested":
        host.flush_journal()
        return subprocess.run(host.journal_command(args.args)).returncode
    sys.stdout.write(host.journal(*args.args))
    return 0


def reboot(args: argparse.Namespace, places: Places) -> int:
    launch.find(args.host, places=places).reboot(hard=args.hard, timeout=args.timeout)
    return 0


def stop(args: argparse.Namespace, places: Places) -> int:
    if bool(args.host) == args.all:
        raise UsageError("stop wants the names of hosts, or --all")
    found = launch.hosts(places) if args.all else [launch.find(name, places=places) for name in args.host]
    for host in found:
        host.stop()
    return 0


def list_hosts(args: argparse.Namespace, places: Places) -> int:
    rows: list[tuple[str, ...]] = [("NAME", "KIND", "RELEASE", "CGROUP", "STATE", "PID", "OWNER")]
    for host in launch.hosts(places):
        now = state.load_state(host.directory)
        if now is not None:
            leader, owner = now.leader, host.request.owner
            pids = [str(process.pid) if process else "-" for process in (leader, owner)]
            rows.append((host.name, host.kind, host.release, host.cgroup, now.phase, *pids))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    return 0


def image(args: argparse.Namespace, places: Places) -> int:
    print(images.build_image(args.image, release=args.release, places=places))
    return 0


def clean(args: argparse.Namespace, places: Places) -> int:
    for path in launch.clean(places, everything=args.cache):
        print(path)
    return 0


def supervise(args: argparse.Namespace, places: Places) -> int:
    return supervisor.keep(places, args.host, args.answer_fd)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="testhost",
        description="Boot throw-away Debian hosts with systemd as PID 1: nested ones in about a second, or "
        "virtual machines. Needs root and Debian's packages only; PID 1 of this machine need not be systemd.",
        epilog="Cache: $GEAR_TESTHOST_CACHE, by default /var/cache/gear-testhost. Mirror: "
        "$GEAR_TESTHOST_MIRROR. Exit status: 0 done, 1 failed, 2 wrong usage; 'run' and 'shell' pass on the "
        "command's and use 125 for their own failures.",
    )
    verbs = top.add_subparsers(metavar="COMMAND", required=True)

    def verb(name: str, function: Verb, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(function=function, verb=name)
        return sub

    sub = verb("build", build, "build and cache the root tree of a release, or the disk of a virtual machine")
    sub.add_argument("release", nargs="+", metavar="RELEASE", help=" or ".join(recipe.RELEASES))
    sub.add_argument("--vm", action="store_true", help="the disk, too")
    sub.add_argument(
        "--extra", default="", metavar="SET", help=f"with more packages: {', '.join(recipe.EXTRAS)}"
    )

    sub = verb("boot", boot, "boot a host and print its name once it is up")
    sub.add_argument("release", metavar="RELEASE", help=" or ".join(recipe.RELEASES))
    sub.add_argument(
        "--vm", action="store_true", help="a virtual machine: slow, but with a kernel of its own"
    )
    sub.add_argument(
        "--extra", default="", metavar="SET", help=f"with more packages: {', '.join(recipe.EXTRAS)}"
    )
    sub.add_argument("--name", help="its name (default: one that is free)")
    sub.add_argument("--owner", type=int, metavar="PID", help="take the host down when this process ends")
    sub.add_argument(
        "--bind", action="append", default=[], metavar="SRC:DST", help="show SRC in a nested host"
    )
    sub.add_argument("--memory", type=int, default=2048, metavar="MIB", help="of a virtual machine (2048)")
    sub.add_argument("--persistent-dir", metavar="DIR", help="keep its changes there when it is stopped")
    sub.add_argument("--timeout", type=float, metavar="S", help="fail when it is not up by then")

    sub = verb("run", run, "run a command in a host; streams and exit status pass through")
    sub.add_argument("--timeout", type=float, metavar="S", help="kill it after that time")
    sub.add_argument(
        "-e", dest="env", action="append", default=[], metavar="K=V", help="an environment variable"
    )
    sub.add_argument("--tty", action="store_true", help="give it a terminal")
    sub.add_argument("host", metavar="NAME")
    sub.usage = "testhost run NAME [--timeout S] [-e K=V]... [--tty] -- CMD..."

    sub = verb("shell", shell, "open a shell in a host")
    sub.add_argument("host", metavar="NAME")

    sub = verb("copy", copy, "copy files and directories into a host, without __pycache__ and .git")
    sub.add_argument("host", metavar="NAME")
    sub.add_argument("src", nargs="+", metavar="SRC", type=Path)
    sub.add_argument("dst", metavar="DST")

    sub = verb("fetch", fetch, "copy a file or directory out of a host")
    sub.add_argument("host", metavar="NAME")
    sub.add_argument("src", metavar="SRC")
    sub.add_argument("dst", metavar="DST")

    sub = verb("journal", journal, "show a host's journal, also when the host is off")
    sub.add_argument("host", metavar="NAME")
    sub.add_argument("args", nargs=argparse.REMAINDER, metavar="JOURNALCTL-ARGS")

    sub = verb("reboot", reboot, "reboot a host, or switch it on again")
    sub.add_argument("--hard", action="store_true", help="as by a power cut")
    sub.add_argument("--timeout", type=float, metavar="S", help="fail when it is not up by then")
    sub.add_argument("host", metavar="NAME")

    sub = verb("stop", stop, "take hosts down at once and remove all that belongs to them")
    sub.add_argument("--all", action="store_true", help="every host of this cache")
    sub.add_argument("host", nargs="*", metavar="NAME")

    verb("list", list_hosts, "list the hosts")

    sub = verb(
        "image", image, "build and cache a root file system to make a container image of; print its path"
    )
    sub.add_argument("image", metavar="IMAGE", help=", ".join(images.NAMES))
    sub.add_argument("--release", default="bookworm", metavar="RELEASE")

    sub = verb("clean", clean, "remove what interrupted builds, dead hosts and older recipes have left")
    sub.add_argument("--cache", action="store_true", help="all trees, disks and images")

    sub = verbs.add_parser("supervise")  # internal: boot starts it
    sub.add_argument("host")
    sub.add_argument("answer_fd", type=int)
    sub.set_defaults(function=supervise, verb="supervise")
    return top


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """What is for testhost, and the command of 'run', which begins after the first '--'."""
    if words[:1] != ["run"] or "--" not in words:
        return words, []
    end = words.index("--")
    return words[:end], words[end + 1 :]


def main(argv: list[str] | None = None) -> int:
    words, command = split(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    args.command = command
    places = Places.default()
    try:
        needs.root()
        places.make()
        if args.verb != "supervise":
            launch.sweep(places)
        status: int = args.function(args, places)
        return status
    except ToolError as err:
        print(f"testhost: {err.message}", file=sys.stderr)
        if err.hint:
            print(f"hint: {err.hint}", file=sys.stderr)
        return OWN_FAILURE if args.verb in ("run", "shell") else err.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
