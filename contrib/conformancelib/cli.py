"""The command line of conformance."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from . import suites, tap, waivers
from .fetch import Unfit

TOP = Path(__file__).resolve().parents[2]
MOST_LINES = 12  # of what a failed test has printed
BASELINES = TOP / "tests" / "conformance"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="conformance",
        description="Judge an OCI runtime by another project's test suite, which is fetched as a Debian source "
        "package into a cache. What fails or is skipped must be waived, with a reason, in the suite's list; "
        "what is waived must not pass.",
        epilog="Exit status: 0 all as expected, 1 something else happened, 2 nothing could be judged.",
    )
    top.add_argument(
        "--runtime", type=Path, default=TOP / "contrib/gear-oci", metavar="PATH", help="the runtime"
    )
    top.add_argument("--suite", choices=sorted(suites.SUITES), default="crun")
    top.add_argument(
        "--release", metavar="RELEASE", help="Debian release of the suite; waivers are for one only"
    )
    top.add_argument("--prepared", type=Path, metavar="DIR", help="a suite that was fetched and built before")
    top.add_argument("--prepare", action="store_true", help="fetch and build only, and print where it is")
    top.add_argument("--list", action="store_true", help="print the names of the tests")
    top.add_argument("--waivers", type=Path, metavar="FILE", help="the list to judge by")
    top.add_argument("--no-waivers", action="store_true", help="judge by none: everything has to pass")
    top.add_argument(
        "--patience", type=float, default=60, metavar="S", help="how long a test may be silent (60)"
    )
    top.add_argument("--verbose", action="store_true", help="show all that the tests print")
    top.add_argument("test", nargs="*", metavar="TEST", help="names, or patterns, of tests: all by default")
    return top


def cache() -> Path:
    """Where suites are kept between runs, outside the project."""
    place = os.environ.get("GEAR_TEST_CACHE")
    return Path(place or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / (
        "conformance" if place else "gear-test/conformance"
    )


def prepared(args: argparse.Namespace) -> suites.Suite:
    kind = suites.SUITES[args.suite]
    if args.prepared:
        suite = kind(args.prepared.resolve())
        if not (suite.top / ".prepared").exists():
            raise Unfit(f"{args.prepared} holds no prepared suite: copy the directory that --prepare prints")
        return suite
    release = args.release or kind.release
    suite = kind(cache() / f"{args.suite}-{release}")
    suite.fetch(release)
    return suite


def baseline(args: argparse.Namespace) -> list[waivers.Waiver]:
    if args.no_waivers:
        return []
    path = args.waivers or BASELINES / f"{args.suite}.waivers"
    try:
        return waivers.parse(path.read_text())
    except (OSError, ValueError) as err:
        raise Unfit(f"{path} can't be used: {err}") from err


def execute(args: argparse.Namespace) -> int:
    suite = prepared(args)
    if args.prepare:
        print(suite.top)
        return 0
    names = suites.chosen(suite.tests(), args.test)
    if args.list:
        print("\n".join(names))
        return 0
    runtime = shutil.which(args.runtime)
    if runtime is None:
        raise Unfit(f"{args.runtime} is no program")
    known = baseline(args)
    tap.adopt_orphans()
    results: dict[str, str] = {}
    said: list[str] = []
    print(f"1..{len(names)}")
    for name, outcome in suite.run(Path(runtime).absolute(), names, args.patience, said.append):
        results[name] = outcome
        report(len(results), name, outcome, said, args.verbose)
        said.clear()
    return summary(results, known, whole=not args.test)


def report(number: int, name: str, outcome: str, said: list[str], verbose: bool) -> None:
    word = "not ok" if outcome == "failed" else "ok"
    words = [line for line in said if not line.startswith(("1..", "ok ", "not ok "))]
    shown = words if verbose else words[-MOST_LINES:] if outcome == "failed" else []
    for line in shown:
        print(f"# {line.removeprefix('# ')}")
    print(f"{word} {number} - {name}{' # SKIP' if outcome == 'skipped' else ''}", flush=True)


def summary(results: dict[str, str], known: list[waivers.Waiver], *, whole: bool) -> int:
    here = waivers.facts()
    wrong = waivers.judge(results, known, here)
    if whole:
        wrong += [
            f"{test} is waived, and the suite has no such test" for test in waivers.unknown(results, known)
        ]
    counts = [f"{list(results.values()).count(word)} {word}" for word in ("passed", "failed", "skipped")]
    print(f"# {', '.join(counts)} of {len(results)} ({', '.join(sorted(here))})")
    for sentence in wrong:
        print(f"# unexpected: {sentence}")
    return 1 if wrong else 0


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return execute(args)
    except Unfit as err:
        print(f"conformance: {err}", file=sys.stderr)
        return 2
