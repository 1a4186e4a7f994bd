"""The text format of OpenMetrics 1.0, as scrapers read it (https://openmetrics.io).

Pure: what is measured is elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gear.patterns import pattern

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_NAME = pattern(r"[a-z_][a-z0-9_]*", re.ASCII)
# What the samples of each type are called after the family's name.
_SUFFIXES = {"gauge": "", "counter": "_total", "info": "_info"}


@dataclass
class Family:
    """One metric: samples are pairs of labels and number.  The unit, if there is one, is the end of the name."""

    name: str
    kind: str  # gauge, counter or info
    help: str
    unit: str = ""
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert _NAME.fullmatch(self.name) and self.kind in _SUFFIXES, self.name
        assert not self.unit or self.name.endswith(f"_{self.unit}"), self.name


def render(families: Iterable[Family]) -> str:
    """The whole text, with its end; families without samples are left out."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# TYPE {family.name} {family.kind}")
        if family.unit:
            lines.append(f"# UNIT {family.name} {family.unit}")
        lines.append(f"# HELP {family.name} {escaped(family.help)}")
        for labels, value in family.samples:
            inner = ",".join(f'{name}="{escaped(text)}"' for name, text in labels.items())
            lines.append(f"{family.name}{_SUFFIXES[family.kind]}{{{inner}}} {number(value)}")
    return "\n".join([*lines, "# EOF", ""])


def escaped(text: str) -> str:
    """*text* as a label's value or as a help; names of images may hold anything."""
    plain = text.encode("utf-8", "replace").decode()
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def number(value: float) -> str:
    """A number, whole ones without a point."""
    if math.isinf(value) or math.isnan(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
