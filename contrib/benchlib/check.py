"""The cut-down form of the measures: what has a bound, in as few rounds as show it."""

from __future__ import annotations

from collections.abc import Callable

from . import growth, images, measures, running
from .bounds import BOUNDS, SERIES, Verdict, judge

TOOLS = ("bare", "gear", "podman")
ROUNDS = 8
MEASURES: dict[str, Callable[[running.Run], None]] = {
    "start": lambda run: measures.lifecycle(run, restarts=False),
    "exec": measures.execute,
    "verbs": lambda run: measures.verbs(run, ("status", "ps", "start and stop")),
    "list": lambda run: growth.listing(run, inspect=False),
    "burst": growth.bursts,
    "images": lambda run: images.moved(run, ("pull",), rounds=3),
}


def passed(release: str, *, vm: bool, say: Callable[[str], None]) -> bool:
    """Boot a host and hold gear against all bounds; says how each came out."""
    with running.started(release, vm=vm, tools=TOOLS, rounds=ROUNDS, say=say) as run:
        verdicts = [verdict for measure in MEASURES for verdict in judged(run, measure)]
    for verdict in verdicts:
        say(str(verdict))
    return all(verdict.met for verdict in verdicts)


def judged(run: running.Run, measure: str) -> list[Verdict]:
    """Make one measure, and again up to SERIES times where a bound of it was missed."""
    run.counts, run.bursts = (100,), (20,)
    bounds = [bound for bound in BOUNDS if bound.measure == measure]
    for _ in range(SERIES):
        MEASURES[measure](run)
        verdicts = [judge(bound, run.results) for bound in bounds]
        if all(verdict.met for verdict in verdicts):
            break
    return verdicts
