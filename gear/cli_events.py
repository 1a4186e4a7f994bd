"""The verb that tells what happens to containers: events."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from gear import events, host, journal, process
from gear.command import Context, Verb, add_output_option, printable, write_output
from gear.errors import UsageError

# What can be asked for with --filter, and the member of an event that it means.
_FILTERS = {"container": "name", "event": "event", "image": "image", "app": "app", "health": "health"}
_ELSEWHERE = ("time", "event", "name", "digest")


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-S", "--since", metavar="TIME", help="also what has happened since this time, as in journalctl(1)")
    add("-U", "--until", metavar="TIME", help="what happened up to this time, and end")
    add("--no-follow", action="store_true", help="print what has happened, and end")
    add(
        "-f",
        "--filter",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"only these: {', '.join(_FILTERS)}; several of one key are alternatives",
    )
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    reader = events.Reader(_filters(args.filter))
    host.require_root("read the journal of containers")
    journal.require_time(args.since)
    journal.require_time(args.until)
    follow = not args.no_follow and args.until is None
    since = args.since
    if since is None and follow:
        # By the clock: with `--lines=0` journalctl loses what comes in its first quarter of a second.
        since = f"@{time.time():.6f}"
    sys.stdout.flush()
    rest = b""
    try:
        with process.reading(events.arguments(since=since, until=args.until, follow=follow)) as descriptor:
            while data := os.read(descriptor, 1 << 18):
                *records, rest = (rest + data).split(b"\n")
                found = [event for record in records if (event := reader.event(record)) is not None]
                if found:
                    line = _json if args.output == "json" else _line
                    write_output("".join(line(event) + "\n" for event in found))
    except KeyboardInterrupt:  # how a follower ends
        pass
    return 0


def _filters(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or key not in _FILTERS:
            raise UsageError(
                f"{word[:60]!r} filters nothing.", hint=f"Write KEY=VALUE; keys are {', '.join(_FILTERS)}."
            )
        if key == "event" and value not in events.KINDS:
            raise UsageError(
                f"There is no event {value[:40]!r}.", hint=f"Events are {', '.join(events.KINDS)}."
            )
        found.setdefault(_FILTERS[key], []).append(value)
    return found


def _json(event: Mapping[str, Any]) -> str:
    return json.dumps(event, sort_keys=True)


def _line(event: Mapping[str, Any]) -> str:
    """One line for people: when, what, to whom, and the rest in parentheses."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event["time"]))
    fraction = f"{event['time'] % 1:.6f}"[1:]
    more = [
        f"{key}={printable(str(value))}"
        for key, value in event.items()
        if key not in _ELSEWHERE and value is not None
    ]
    parts = [when + fraction, event["event"], event["name"] or "", f"({', '.join(more)})" if more else ""]
    return " ".join(part for part in parts if part)


VERBS = (
    Verb(
        "events",
        "tell what happens to containers",
        "Print a line for each thing that happens to containers and images: what PID 1 does with their units, and what "
        "gear does.  It goes on until Ctrl-C.  All of it is read from the journal, so --since shows the past.",
        _arguments,
        _run,
    ),
)
