"""The command line of bench."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from testhostlib import CommandError, ToolError, UsageError
from testhostlib.recipe import RELEASES

from . import budget, check, growth, images, measures, plot, report, runners, running, traffic
from .samples import Results

# Every measure, by name, in the order in which they are made.
MEASURES: dict[str, Callable[[running.Run], None]] = {
    "start": measures.lifecycle,
    "budget": budget.budget,
    "variants": budget.variants,
    "exec": measures.execute,
    "run": measures.once,
    "install": measures.install,
    "verbs": measures.verbs,
    "list": growth.listing,
    "burst": growth.bursts,
    "reload": growth.reloading,
    "images": images.moved,
    "network": traffic.network,
    "logs": traffic.logs,
}


def parser() -> argparse.ArgumentParser:
    lines = [f"  {name:9} {(function.__doc__ or '').splitlines()[0]}" for name, function in MEASURES.items()]
    top = argparse.ArgumentParser(
        prog="bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Boot a test host with gear and every other tool from Debian's packages, run the same payload of\n"
        "the same image through each, by turns, and print medians, quartiles and ratios.\n\n"
        "Measures, all of them by default:\n" + "\n".join(lines),
        epilog="Times say something of this machine only, ratios of the programs. gear has no daemon and no API, so\n"
        "there are no requests per second; and it builds no images. Exit status: 0; 1 when a bound is missed\n"
        "or nothing could be measured; 2 for a wrong request.",
    )
    top.add_argument("measure", nargs="*", metavar="MEASURE", help="what to measure")
    top.add_argument("--release", choices=RELEASES, default="trixie")
    top.add_argument(
        "--vm", action="store_true", help="in a virtual machine with cgroup v2, some 20 times slower"
    )
    top.add_argument(
        "--tools", default=",".join(runners.NAMES), metavar="TOOL,...", help="some of them only: %(default)s"
    )
    top.add_argument("--rounds", type=int, metavar="N", help="rounds that count (20; --quick: 5)")
    top.add_argument("--quick", action="store_true", help="5 rounds, and at most 100 containers")
    top.add_argument("--full", action="store_true", help="up to 5000 containers, and 500 starts at once")
    top.add_argument(
        "--counts", type=numbers, metavar="N,...", help="follow costs over these numbers of containers"
    )
    top.add_argument("--bursts", type=numbers, metavar="N,...", help="start so many at once")
    top.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    top.add_argument(
        "--read",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing: show what --json has written; what later files have measured again takes its place",
    )
    top.add_argument(
        "--document", type=Path, metavar="FILE", help="replace the tables in this document by the new ones"
    )
    top.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw costs over numbers of containers")
    top.add_argument(
        "--check", action="store_true", help="only what has a bound, in short; fail when one is missed"
    )
    return top


def numbers(words: str) -> tuple[int, ...]:
    """Growing positive numbers of the command line; raises ValueError for others."""
    found = tuple(int(word) for word in words.split(","))
    if list(found) != sorted(set(found)) or found[0] < 1:
        raise ValueError(words)
    return found


def asked(args: argparse.Namespace, top: argparse.ArgumentParser) -> tuple[list[str], tuple[str, ...]]:
    """The measures and tools that are wanted; ends the program where there is no such thing."""
    for name in args.measure:
        if name not in MEASURES:
            top.error(f"there is no measure {name!r}; there are: {', '.join(MEASURES)}")
    tools = tuple(args.tools.split(","))
    for name in tools:
        if name not in runners.NAMES:
            top.error(f"there is no tool {name!r}; there are: {', '.join(runners.NAMES)}")
    if args.rounds is not None and args.rounds < 1:
        top.error("--rounds has to be 1 at least")
    return args.measure or list(MEASURES), tools


def measure(args: argparse.Namespace, names: list[str], tools: tuple[str, ...]) -> Results:
    """Boot a host and make the measures; one that fails is told of, and the others are made.

    What was measured until an interruption is kept.
    """
    rounds = args.rounds or (5 if args.quick else 20)
    with running.started(args.release, vm=args.vm, tools=tools, rounds=rounds, say=progress) as run:
        if args.quick:
            run.counts, run.bursts = (10, 100), (10,)
        elif args.full:
            run.counts, run.bursts = (10, 100, 1000, 5000), (10, 50, 200, 500)
        run.counts, run.bursts = args.counts or run.counts, args.bursts or run.bursts
        for name in names:
            try:
                MEASURES[name](run)
            except CommandError as err:
                progress(f"{name}: {err}")
                run.lacking(name, "", "all", f"the measure itself has failed: {err}"[:300])
            except KeyboardInterrupt:
                run.lacking(name, "", "all", "interrupted; what comes after it was not measured either")
                break
    return run.results


def progress(line: str) -> None:
    """Tell what is going on, beside the results."""
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    top = parser()
    args = top.parse_args(argv)
    names, tools = asked(args, top)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.check:
            return 0 if check.passed(args.release, vm=args.vm, say=progress) else 1
        if args.read:
            results, *later = [Results.read(json.loads(path.read_text())) for path in args.read]
            for other in later:
                results.replace(other)
        else:
            results = measure(args, names, tools)
        if args.json:
            args.json.write_text(json.dumps(results.to_mapping(), indent=1) + "\n")
        if args.document:
            args.document.write_text(report.placed(args.document.read_text(), results))
        if args.plot:
            plot.draw(results, args.plot)
        print(report.tables(results), end="")
    except (ToolError, UsageError, CommandError, OSError, ValueError) as err:
        print(f"bench: {err}", file=sys.stderr)
        return 1
    return 0 if results.samples else 1
