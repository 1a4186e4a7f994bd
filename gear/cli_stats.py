"""The verbs that measure containers: stats, metrics."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

from gear import durations, files, host, metrics, watching
from gear.command import Context, Verb, add_output_option, table, write_output
from gear.model import absolute_path, container_name
from gear.progress import amount
from gear.systemd import Manager

_HEADER = ("NAME", "CPU", "QUOTA", "MEMORY", "LIMIT", "PEAK", "SWAP", "READ/s", "WRITE/s", "RECV/s", "SENT/s", "PIDS",
           "PRESSURE", "OOM", "THROTTLED")  # fmt: skip


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", metavar="NAME", nargs="*", type=container_name, help="a container; all that run if none")
    add("-a", "--all", action="store_true", help="also those that do not run")
    add("--no-stream", action="store_true", help="measure once, over one interval, and end")
    add("--interval", metavar="SECONDS", default="1", help="how long each measurement takes (1)")
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    interval = durations.within(args.interval, 0.1, 3600, "interval")
    host.require_root("measure containers")
    live = args.output == "table" and not args.no_stream and sys.stdout.isatty()
    drawn = 0
    interrupted = _interrupts()
    with Manager() as manager:
        watch = watching.Watch(manager, context.layout, args.names)
        # Whoever names a container wants its line, whether it runs or not.
        everything = args.all or bool(args.names)
        before = {look.name: look for look in watch.look()}
        due = time.monotonic() + interval
        try:
            while not interrupted:
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due + interval, time.monotonic())
                now, at = watch.look(), time.time()
                found = [watching.document(look, before.get(look.name), at) for look in now]
                before = {look.name: look for look in now}
                shown = [item for item in found if item["running"] or everything]
                if args.output == "json":
                    write_output("".join(json.dumps(item, sort_keys=True) + "\n" for item in shown))
                elif live:
                    drawn = _redraw(_table(shown).split("\n"), drawn)
                else:
                    context.report(_table(shown))
                if args.no_stream:
                    return 0
        except KeyboardInterrupt:  # how it ends
            pass
    return 0


def _interrupts() -> list[int]:
    """What gets an entry with Ctrl-C: in the middle of a call to PID 1 the exception alone would be lost."""
    found: list[int] = []

    def end(number: int, frame: object) -> NoReturn:
        found.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, end)
    return found


def _redraw(lines: list[str], drawn: int) -> int:
    """Write *lines* over the *drawn* ones of the last time, as far as the terminal holds them; how many these are."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        columns, rows = 80, 24
    lines = [line[: columns - 1] for line in lines[: max(2, rows - 1)]]
    back = f"\x1b[{drawn}A" if drawn else ""
    write_output(back + "".join(f"\r\x1b[K{line}\n" for line in lines) + "\x1b[J")
    return len(lines)


def _table(items: list[dict[str, Any]]) -> str:
    return table(_HEADER, map(_row, items))


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    cpu, memory, io, net = item["cpu"], item["memory"], item["io"], item["net"]
    waits = [item["pressure"][resource]["some"] for resource in ("cpu", "memory", "io")]
    return (
        item["name"],
        _percent(cpu["percent"]),
        _percent(cpu["quota_percent"]),
        _bytes(memory["current"]),
        _bytes(memory["limit"]),
        _bytes(memory["peak"]),
        _bytes(memory["swap"]),
        _bytes(io["read_rate"]),
        _bytes(io["write_rate"]),
        _bytes(net["receive_rate"]),
        _bytes(net["send_rate"]),
        _number(item["pids"]["current"]),
        # Of processors, memory and files: the share of the time in which something waited.
        "-" if waits == [None, None, None] else "/".join(_number(wait) for wait in waits),
        _number(memory["oom_kills"]),
        "-" if cpu["throttled_seconds"] is None else f"{cpu['throttled_seconds']:.1f}s",
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}%"


def _bytes(value: float | None) -> str:
    return "-" if value is None else amount(int(value)).replace(" ", "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _metrics_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--file", metavar="PATH", help="replace this file, instead of printing")
    where.add_argument(
        "--serve",
        action="store_true",
        help="answer one HTTP request on standard input, as gear-metrics.socket asks",
    )


def _run_metrics(args: argparse.Namespace, context: Context) -> int:
    path = None if args.file is None else absolute_path(os.path.abspath(args.file), "--file")
    host.require_root("measure containers")

    def measure() -> str:
        with Manager() as manager:
            return metrics.text(watching.Watch(manager, context.layout).look())

    if args.serve:
        metrics.answer(0, 1, measure)
    elif path is not None:
        files.write_atomic(path, measure().encode())
    else:
        write_output(measure())
    return 0


VERBS = (
    Verb(
        "stats",
        "show what containers use",
        "Show what containers use of processors, memory, files and network, again every interval, until Ctrl-C.  CPU "
        "is in percent of one processor, QUOTA of what it may use; a dash is what this machine does not count.",
        _arguments,
        _run,
    ),
    Verb(
        "metrics",
        "print what containers use for scrapers",
        "Print what containers use in the text format of OpenMetrics, for example for the textfile collector of "
        "Prometheus' node_exporter.  gear-metrics.socket serves the same over HTTP without a resident process.",
        _metrics_arguments,
        _run_metrics,
    ),
)
