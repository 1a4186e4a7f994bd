"""What was measured, in numbers; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class Sample:
    """One metric of one tool: the median of its rounds and the quartiles around it.

    *case* tells the variants of a measure apart, *count* of how many containers it is; *unit* is s, B, B/s or 1/s, or
    empty for plain numbers.
    """

    measure: str
    case: str
    metric: str
    tool: str
    unit: str
    rounds: int
    median: float
    low: float
    high: float
    count: int | None = None


@dataclass(frozen=True)
class Missing:
    """What could not be measured, and why."""

    measure: str
    case: str
    tool: str
    reason: str


@dataclass
class Results:
    """All of one run; *host* says what it was measured on."""

    host: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    def add(
        self, measure: str, case: str, tool: str, values: dict[str, list[float]], count: int | None = None
    ) -> None:
        """Take what inside.py has noted of one case."""
        for metric, rounds in values.items():
            low, median, high = spread(rounds)
            unit = unit_of(metric)
            self.samples.append(
                Sample(measure, case, metric, tool, unit, len(rounds), median, low, high, count)
            )

    def find(
        self, measure: str, case: str, metric: str, tool: str, count: int | None = None
    ) -> Sample | None:
        """The last sample of this kind, or none."""
        wanted = (measure, case, metric, tool, count)
        for sample in reversed(self.samples):
            if (sample.measure, sample.case, sample.metric, sample.tool, sample.count) == wanted:
                return sample
        return None

    def counts(self, measure: str, case: str, metric: str, tool: str) -> dict[int, Sample]:
        """The samples of growing numbers of containers, by number."""
        found = {}
        for sample in self.samples:
            if (sample.measure, sample.case, sample.metric, sample.tool) == (measure, case, metric, tool):
                if sample.count is not None:
                    found[sample.count] = sample
        return dict(sorted(found.items()))

    def forget(self, measure: str) -> None:
        """Drop what there is of a measure."""
        self.samples = [sample for sample in self.samples if sample.measure != measure]
        self.missing = [entry for entry in self.missing if entry.measure != measure]

    def replace(self, other: Results) -> None:
        """Take what a later run has measured instead of what is here.

        Whole cases, since their tools are compared; of those that are followed over numbers of containers, what the
        later run has of a tool and a number.
        """
        again = {_place(sample) for sample in other.samples}
        measured = {(sample.measure, sample.tool) for sample in other.samples}
        self.samples = [sample for sample in self.samples if _place(sample) not in again] + other.samples
        self.missing = [
            entry for entry in self.missing if (entry.measure, entry.tool) not in measured
        ] + other.missing

    def to_mapping(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "version": VERSION,
            "host": self.host,
            "samples": [asdict(sample) for sample in self.samples],
            "missing": [asdict(entry) for entry in self.missing],
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> Results:
        """What to_mapping() has made; raises ValueError for what it has not."""
        if document.get("version") != VERSION:
            raise ValueError(f"version {document.get('version')!r} of results is not known, only {VERSION}")
        return cls(
            host=document["host"],
            samples=[Sample(**entry) for entry in document["samples"]],
            missing=[Missing(**entry) for entry in document["missing"]],
        )


def _place(sample: Sample) -> tuple[str, str, str | None, int | None]:
    """Which samples are replaced together."""
    tool = None if sample.count is None else sample.tool
    return sample.measure, sample.case, tool, sample.count


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def unit_of(metric: str) -> str:
    """What a metric is measured in, by its name."""
    last = metric.rpartition("-")[2]
    return {"bytes": "B", "processes": "", "throughput": "B/s", "rate": "1/s", "loss": ""}.get(last, "s")


def each(results: Results, measure: str, case: str, metric: str, tool: str) -> dict[int, float]:
    """What each further container costs, from one number of containers to the next, by the greater number."""
    found = list(results.counts(measure, case, metric, tool).items())
    return {
        more: (after.median - before.median) / (more - less)
        for (less, before), (more, after) in zip(found, found[1:], strict=False)
    }


def exponent(points: Iterable[tuple[float, float]]) -> float | None:
    """The power of the number that the cost grows with: the slope of the best line through log-log points.

    None where there are fewer than two points.  What there is without any container has to be taken away before.
    """
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    return statistics.linear_regression([x for x, _ in logs], [y for _, y in logs]).slope
