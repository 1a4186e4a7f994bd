"""How much worse than others gear may be, as one table; pure.

Ratios of times taken in the same run on the same host: absolute times say more of the machine than of the program.
The goal of verbs, 80 ms more than systemctl, is taken for 8 ms of systemctl, and 25 ms with a stop.
"""

from __future__ import annotations

from dataclasses import dataclass

from .samples import Results

# Others share the machine, and their load falls on either half by chance: one series of these within a bound shows that
# it can be met.
SERIES = 3


@dataclass(frozen=True)
class Bound:
    """gear's *metric* is to be at most *most* times *against*'s; without *against* at most so much itself.

    With *count* it is that of so many containers; *each* compares what one container costs, between none and the most
    that were measured of each tool.
    """

    what: str
    measure: str
    case: str
    metric: str
    against: str | None
    most: float
    count: int | None = None
    each: bool = False
    # What it should become, where *most* is only what it is now.
    goal: float | None = None


BOUNDS = (
    Bound("a start, of a bare service's", "start", "--net none", "start", "bare", 2.0),
    Bound("a start, of podman's unit's", "start", "--net none", "start", "podman", 1 / 3),
    Bound("a start with a port, of a bare service's", "start", "bridge and one port", "start", "bare", 3.0),
    Bound(
        "a start with a port, of podman's unit's", "start", "bridge and one port", "start", "podman", 1 / 3
    ),
    Bound("a stop, of a bare service's", "start", "--net none", "stop", "bare", 3.5, goal=1.5),
    Bound("exec, of podman's", "exec", "", "exec", "podman", 0.5),
    Bound("listing one more, of podman's", "list", "list", "list", "podman", 1.0, each=True),
    Bound("many starts at once, of podman's", "burst", "", "burst", "podman", 0.45, count=20, goal=1 / 3),
    Bound("processes beside a container", "burst", "", "burst-processes", None, 0.0, count=20),
    Bound("memory beside a container", "burst", "", "burst-bytes", None, 0.0, count=20),
    Bound("a pull, of podman's", "images", "pull", "pull", "podman", 1.0),
    Bound("memory of a pull", "images", "pull", "pull-bytes", None, 150 << 20),
    Bound("gear status, of systemctl status", "verbs", "status", "verb", "systemctl", 25.0, goal=11.0),
    Bound("gear ps, of systemctl list-units", "verbs", "ps", "verb", "systemctl", 25.0, goal=11.0),
    Bound("gear stop, of systemctl stop", "verbs", "start and stop", "stop", "systemctl", 10.0, goal=4.0),
)


@dataclass(frozen=True)
class Verdict:
    """What a bound's value is, none if it was not measured."""

    bound: Bound
    value: float | None

    @property
    def met(self) -> bool:
        return self.value is not None and self.value <= self.bound.most

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.2f}"
        goal = "" if self.bound.goal is None else f" (the goal is {self.bound.goal:.2f})"
        return f"{'ok' if self.met else 'WORSE'}: {self.bound.what}: {value}, at most {self.bound.most:.2f}{goal}"


def judge(bound: Bound, results: Results) -> Verdict:
    """Hold results against one bound."""
    ours = amount(bound, results, "gear")
    if bound.against is None or ours is None:
        return Verdict(bound, ours)
    theirs = amount(bound, results, bound.against)
    if theirs is None or theirs <= 0:
        return Verdict(bound, None)
    return Verdict(bound, ours / theirs)


def amount(bound: Bound, results: Results, tool: str) -> float | None:
    """What is compared of one tool."""
    if not bound.each:
        sample = results.find(bound.measure, bound.case, bound.metric, tool, bound.count)
        return None if sample is None else sample.median
    found = results.counts(bound.measure, bound.case, bound.metric, tool)
    if len(found) < 2:
        return None
    (less, before), *_, (more, after) = found.items()
    return (after.median - before.median) / (more - less)
