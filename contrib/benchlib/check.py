"""The form of the measures that continuous integration runs: what has a bound, in as few rounds as show it."""

from __future__ import annotations

from collections.abc import Callable

from . import growth, images, measures, running, traffic
from .bounds import BOUNDS, SERIES, Bound, Verdict, judge
from .samples import Missing

TOOLS = ("bare", "gear", "podman")
ROUNDS = 10
COUNTS, RECORDS, BURST = (100,), (1000, 2000), 20


def lists(run: running.Run) -> None:
    """What one container more costs beside podman's, and what many do."""
    growth.listing(run, inspect=False, of=("podman",))
    growth.records(run, RECORDS)


MEASURES: dict[str, Callable[[running.Run], None]] = {
    "start": measures.lifecycle,
    "exec": measures.execute,
    "run": measures.once,
    "install": measures.install,
    "verbs": lambda run: measures.verbs(run, ("status", "ps", "start and stop")),
    "list": lists,
    "burst": growth.bursts,
    "images": lambda run: images.moved(run, ("pull",), rounds=3),
    "network": lambda run: traffic.network(run, ways=("nat", "fd", "podman"), seconds=0.5),
    "logs": traffic.logs,
}


class Checked:
    """Bounds held against measures on one host; a measure is made when a bound first asks for it."""

    def __init__(self, run: running.Run) -> None:
        run.counts, run.bursts = COUNTS, (BURST,)
        self._run = run
        self._series = dict.fromkeys(MEASURES, 0)
        self._best: dict[Bound, Verdict] = {}

    def verdict(self, bound: Bound) -> Verdict:
        """The best that *bound* has come to; while it is missed its measure is made again, up to SERIES times."""
        while bound not in self._best or not self._best[bound].met:
            if self._series[bound.measure] == SERIES:
                break
            self._measure(bound.measure)
        return self._best[bound]

    @property
    def missing(self) -> list[Missing]:
        """What could not be measured, and why."""
        return self._run.results.missing

    def _measure(self, name: str) -> None:
        """Make a measure, and keep what is better of each of its bounds than before."""
        self._series[name] += 1
        # What is not measured this time must not look like what was measured before.
        self._run.results.forget(name)
        MEASURES[name](self._run)
        for bound in BOUNDS:
            if bound.measure == name:
                new, old = judge(bound, self._run.results), self._best.get(bound)
                if old is None or old.value is None or (new.value is not None and new.value < old.value):
                    self._best[bound] = new


def passed(release: str, *, vm: bool, say: Callable[[str], None]) -> bool:
    """Boot a host and hold gear against all bounds; says how each came out."""
    with running.started(release, vm=vm, tools=TOOLS, rounds=ROUNDS, say=say) as run:
        checked = Checked(run)
        verdicts = [checked.verdict(bound) for bound in BOUNDS]
    for verdict in verdicts:
        say(str(verdict))
    return all(verdict.met for verdict in verdicts)
