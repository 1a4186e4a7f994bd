"""How much worse than others gear may be, as one table; pure.

Ratios of times taken in the same run on the same host: absolute times say more of the machine than of the program.
The goal of verbs, 80 ms more than systemctl, is taken for 8 ms of systemctl, and 25 ms with a stop.
"""

from __future__ import annotations

from dataclasses import dataclass

from .samples import Results, Sample

# Others share the machine, and their load falls on either half by chance: one series of these within a bound shows that
# it can be met.
SERIES = 3


@dataclass(frozen=True)
class Bound:
    """What *tool* takes is to be at most *most* times what *against* takes; without *against* at most so much itself.

    A rate, of which more is better, counts as the time that one takes.  With *count* it is that of so many containers,
    and *against_case* and *against_count* are the other's where they differ.  *of* says what of it is compared: "all"
    of it; "each", what one container costs, between the fewest and the most that were measured of each tool; "later",
    what each of the last containers costs beside each of the first, by the three greatest numbers.
    """

    what: str
    measure: str
    case: str
    metric: str
    against: str | None
    most: float
    tool: str = "gear"
    count: int | None = None
    against_case: str | None = None
    against_count: int | None = None
    of: str = "all"
    # Debian 12's, where its systemd or its podman makes another one of it.
    bookworm: float | None = None
    # What it should become, where *most* is only what it is now.
    goal: float | None = None

    def limit(self, release: str | None) -> float:
        """The most that it may be on *release*."""
        return self.bookworm if release == "bookworm" and self.bookworm is not None else self.most


def _start(
    what: str,
    case: str,
    metric: str,
    against: str,
    most: float,
    *,
    bookworm: float | None = None,
    goal: float | None = None,
) -> Bound:
    """A bound of a container that is started and stopped."""
    what = f"{what}, of {against}'s"
    return Bound(what, "start", case, metric, against, most, bookworm=bookworm, goal=goal)


def _port(mode: str, metric: str, most: float) -> Bound:
    """A bound of what goes through a port that gear publishes by *mode*, beside podman's bridge."""
    what = {"throughput": "sending", "latency": "an answer", "connections-rate": "a connection"}[metric]
    return Bound(
        f"{what} through {mode}, of podman's", "network", "from outside", metric, "podman", most,
        tool=f"gear {mode}",
    )  # fmt: skip


NONE, PORT = "--net none", "bridge and one port"
BOUNDS = (
    _start("a start", NONE, "start", "bare", 2.6, bookworm=4.0, goal=1.5),
    _start("a start", NONE, "start", "podman", 0.65, bookworm=0.45, goal=1 / 3),
    _start("a start to the first instruction", NONE, "start-first", "bare", 2.7, bookworm=4.0, goal=1.5),
    _start("a restart", NONE, "restart", "podman", 0.5),
    _start("a stop", NONE, "stop", "bare", 3.5, goal=1.5),
    _start("a stop", NONE, "stop", "podman", 0.5),
    _start("a start with a port", PORT, "start", "bare", 3.0),
    _start("a start with a port", PORT, "start", "podman", 0.45, bookworm=0.4, goal=1 / 3),
    Bound("exec, of podman's", "exec", "", "exec", "podman", 0.5),
    Bound("run --rm, of podman's", "run", "--rm --net none", "run", "podman", 2.5, goal=1.0),
    Bound("an install, of podman's create", "install", "", "install", "podman", 5.0, bookworm=6.5, goal=1.0),
    Bound("gear status, of systemctl status", "verbs", "status", "verb", "systemctl", 12.0, bookworm=15.0),
    Bound("gear ps, of systemctl list-units", "verbs", "ps", "verb", "systemctl", 9.0, bookworm=12.0),
    Bound(
        "gear stop, of systemctl stop",
        "verbs",
        "start and stop",
        "stop",
        "systemctl",
        4.0,
        bookworm=7.0,
    ),
    Bound(
        "listing one more, of podman's",
        "list",
        "records",
        "list",
        "podman",
        0.6,
        against_case="list",
        of="each",
    ),
    Bound(
        "listing a thousand, of listing none",
        "list",
        "records",
        "list",
        "gear",
        4.5,
        count=1000,
        against_count=0,
    ),
    Bound("listing one of the last, of one of the first", "list", "records", "list", None, 2.0, of="later"),
    Bound(
        "many starts at once, of podman's",
        "burst",
        "",
        "burst",
        "podman",
        0.55,
        bookworm=0.45,
        count=20,
        goal=1 / 3,
    ),
    Bound("processes beside a container", "burst", "", "burst-processes", None, 0.0, count=20),
    Bound("memory beside a container", "burst", "", "burst-bytes", None, 0.0, count=20),
    Bound("a pull, of podman's", "images", "pull", "pull", "podman", 1.0, goal=0.7),
    Bound("memory of a pull", "images", "pull", "pull-bytes", None, 150 << 20),
    _port("nat", "throughput", 1.25),
    _port("nat", "latency", 1.25),
    _port("nat", "connections-rate", 1.25),
    _port("fd", "throughput", 1.25),
    _port("fd", "latency", 1.25),
    _port("fd", "connections-rate", 1.25),
    Bound("log lines lost", "logs", "20000 lines", "lines-loss", None, 0.0),
    Bound("following a log, of journalctl's", "logs", "20000 lines", "lines-rate", "bare", 1.5),
)


@dataclass(frozen=True)
class Verdict:
    """What a bound's value is, none if it was not measured; *most* is what it may be."""

    bound: Bound
    value: float | None
    most: float

    @property
    def met(self) -> bool:
        return self.value is not None and self.value <= self.most

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.2f}"
        goal = "" if self.bound.goal is None else f" (the goal is {self.bound.goal:.2f})"
        return f"{'ok' if self.met else 'WORSE'}: {self.bound.what}: {value}, at most {self.most:.2f}{goal}"


def judge(bound: Bound, results: Results) -> Verdict:
    """Hold results against one bound."""
    most = bound.limit(results.host.get("release"))
    ours = amount(bound, results, bound.tool, bound.case, bound.count)
    if bound.against is None or ours is None:
        return Verdict(bound, ours, most)
    case = bound.case if bound.against_case is None else bound.against_case
    other = bound.count if bound.against_count is None else bound.against_count
    theirs = amount(bound, results, bound.against, case, other)
    if theirs is None or theirs <= 0:
        return Verdict(bound, None, most)
    return Verdict(bound, ours / theirs, most)


def amount(bound: Bound, results: Results, tool: str, case: str, count: int | None) -> float | None:
    """What is compared of one tool; none also for what chance has made of too short a measure."""
    if bound.of == "all":
        sample = results.find(bound.measure, case, bound.metric, tool, count)
        return None if sample is None else taken(sample)
    found = list(results.counts(bound.measure, case, bound.metric, tool).items())
    if len(found) < (2 if bound.of == "each" else 3):
        return None
    each = slope(found[0], found[-1])
    if bound.of == "each":
        return each if each > 0 else None
    first, last = slope(found[-3], found[-2]), slope(found[-2], found[-1])
    return last / first if first > 0 and last > 0 else None


def taken(sample: Sample) -> float:
    """The median, of rates what one takes."""
    if sample.unit in ("B/s", "1/s"):
        return 1 / sample.median if sample.median > 0 else float("inf")
    return sample.median


def slope(few: tuple[int, Sample], many: tuple[int, Sample]) -> float:
    """What each container costs between two numbers of them."""
    return (many[1].median - few[1].median) / (many[0] - few[0])
