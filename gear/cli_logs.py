"""The verb that prints what containers have written: logs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence

from gear import containers, files, host, journal, process
from gear.command import Context, Verb
from gear.errors import GearError, UsageError
from gear.journaling import DISCARD, LEVELS
from gear.model import container_name, unit_name
from gear.spec import Spec
from gear.systemd import Manager

# SGR codes of the colors that prefixes take turns in on a terminal: none that says good or bad.
_COLORS = (36, 33, 35, 34, 96, 93, 95, 94)


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", metavar="NAME", nargs="+", type=container_name, help="an installed container")
    add("-f", "--follow", action="store_true", help="go on with what is written from now on")
    add("-n", "--lines", "--tail", metavar="NUMBER", help="only the last NUMBER lines")
    add("-S", "--since", metavar="TIME", help="from this time on, as in journalctl(1)")
    add("-U", "--until", metavar="TIME", help="up to this time")
    add("-b", "--boot", action="store_true", help="only since the machine was booted")
    add("-i", "--invocation", action="store_true", help="only since the container was last started")
    add("-g", "--grep", metavar="PATTERN", help="only lines that match, as in journalctl(1)")
    add("-p", "--priority", metavar="LEVEL", help="only what is as important, for example err")
    add("-t", "--timestamps", action="store_true", help="with time, host and process, as journalctl prints")
    add("-a", "--all", action="store_true", help="also what systemd says about the unit")
    add("--no-prefix", action="store_true", help="do not put names before the lines of several containers")
    add("--output", choices=("table", "json"), default="table", help="json: one journal record a line")


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("read the journal of containers")
    specs = [containers.get(context.layout, name) for name in dict.fromkeys(args.names)]
    for spec in specs:
        if spec.logging.driver == DISCARD and not args.all:
            raise GearError(
                f"What {spec.name} writes is thrown away, so there is nothing to show.",
                hint="It is installed with --log-driver none; --all shows what systemd says of it.",
            )
    output = "json" if args.output == "json" else "short-iso" if args.timestamps or args.all else "cat"
    journal.require_time(args.since)
    journal.require_time(args.until)
    query = journal.Query(
        lines=_number(args.lines),
        follow=args.follow,
        since=args.since,
        until=args.until,
        this_boot=args.boot,
        invocations=_invocations(specs) if args.invocation else (),
        output=output,
        whole=args.all,
        grep=args.grep,
        priority=None if args.priority is None else _priority(args.priority),
        namespaces=frozenset(spec.logging.namespace for spec in specs),
    )
    for namespace in query.namespaces - {None}:
        # A journald of its own may not have been there yet, or not have written what came to it.
        journal.synchronize(namespace)
    names = [spec.name for spec in specs]
    # journalctl looks for the last matching lines from the end, and prints them so.
    backwards = query.grep is not None and query.lines is not None and not query.follow
    if len(specs) > 1 and output == "cat" and not args.no_prefix:
        _interleaved(names, query, backwards=backwards)
    elif backwards:
        lines = process.output(journal.arguments(names, query), accept=(0, 1)).splitlines()
        for line in reversed(lines):
            context.report(line)
    else:
        process.replace(journal.arguments(names, query))
    return 0


def _number(text: str | None) -> int | None:
    if text is None or text == "all":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UsageError(f"{text!r} is no number of lines.")
    return int(text)


def _priority(text: str) -> str:
    """A level of syslog(3) by name or number, or a range of two; raises UsageError."""
    for word in text.split("..", 1):
        if word not in LEVELS and word not in map(str, range(8)):
            raise UsageError(f"{text[:40]!r} is no priority.", hint=f"Levels are {', '.join(LEVELS)}.")
    return text


def _invocations(specs: Sequence[Spec]) -> tuple[str, ...]:
    """The latest invocation of each; raises GearError for one that has none."""
    found = []
    with Manager() as manager:
        for spec in specs:
            now = bytes(manager.properties(spec.unit).get("InvocationID") or b"").hex()
            invocation = now or journal.last_invocation(spec.name)
            if invocation is None:
                raise GearError(f"{spec.name} has not been started yet, so there is nothing to show.")
            found.append(invocation)
    return tuple(found)


def _interleaved(names: Sequence[str], query: journal.Query, *, backwards: bool) -> None:
    """Print the lines of several containers in the order of the journal, each after its container's name."""
    prefixes = _prefixes(names, colored=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    wanted = ["--output=json", "--output-fields=MESSAGE,_SYSTEMD_UNIT"]
    arguments = [*journal.arguments(names, query), *wanted]
    sys.stdout.flush()
    try:
        with process.reading(arguments) as descriptor:
            if backwards:
                kept = list(_lines(descriptor, prefixes))
                files.write_all(1, b"".join(reversed([line for chunk in kept for line in chunk])))
                return
            for chunk in _lines(descriptor, prefixes):
                files.write_all(1, b"".join(chunk))
    except KeyboardInterrupt:  # how a follower ends
        pass


def _prefixes(names: Sequence[str], *, colored: bool) -> dict[str, bytes]:
    """What stands before the lines of each unit."""
    width = max(map(len, names))
    found = {}
    for number, name in enumerate(names):
        text = f"{name:<{width}} | "
        if colored:
            text = f"\x1b[{_COLORS[number % len(_COLORS)]}m{text}\x1b[0m"
        found[unit_name(name)] = text.encode()
    return found


def _lines(descriptor: int, prefixes: dict[str, bytes]) -> Iterator[list[bytes]]:
    """The lines to print, as many at a time as have come from journalctl."""
    rest = b""
    while data := os.read(descriptor, 1 << 18):
        *records, rest = (rest + data).split(b"\n")
        yield [_line(json.loads(record), prefixes) for record in records]


def _line(record: dict[str, object], prefixes: dict[str, bytes]) -> bytes:
    message = record.get("MESSAGE")
    # An array is how bytes come that are no text.
    text = (
        bytes(message) if isinstance(message, list) else str(message or "").encode("utf-8", "surrogateescape")
    )
    return prefixes.get(str(record.get("_SYSTEMD_UNIT")), b"") + text + b"\n"


VERBS = (
    Verb(
        "logs",
        "print what containers have written",
        "Print what payloads wrote to standard output and standard error, from the journal and from the journals of "
        "log namespaces.  The lines of several containers are interleaved, each after the name of its container.",
        _arguments,
        _run,
    ),
)
