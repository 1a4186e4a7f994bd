"""The form of the measures that continuous integration runs: what has a bound, in as few rounds as show it."""

from __future__ import annotations

from collections.abc import Callable

from . import growth, measures, running
from .bounds import BOUNDS, SERIES, Verdict, judge

TOOLS = ("bare", "gear", "podman")
ROUNDS = 8
MEASURES: dict[str, Callable[[running.Run], None]] = {
    "start": measures.lifecycle,
    "exec": measures.execute,
    "verbs": measures.verbs,
    "list": growth.listing,
    "burst": growth.bursts,
}


def passed(release: str, *, vm: bool, say: Callable[[str], None]) -> bool:
    """Boot a host and hold gear against all bounds; says how each came out."""
    with running.started(release, vm=vm, tools=TOOLS, rounds=ROUNDS, say=say) as run:
        verdicts = judged(run)
    for verdict in verdicts:
        say(str(verdict))
    return all(verdict.met for verdict in verdicts)


def judged(run: running.Run) -> list[Verdict]:
    """Make the measures, those with a missed bound up to SERIES times."""
    run.counts, run.bursts = (100,), (20,)
    met: dict[str, list[Verdict]] = {}
    for measure, function in MEASURES.items():
        bounds = [bound for bound in BOUNDS if bound.measure == measure]
        for _ in range(SERIES):
            function(run)
            met[measure] = [judge(bound, run.results) for bound in bounds]
            if all(verdict.met for verdict in met[measure]):
                break
    return [verdict for verdicts in met.values() for verdict in verdicts]
