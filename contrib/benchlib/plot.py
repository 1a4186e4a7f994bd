"""Costs over numbers of containers, drawn with logarithmic scales: growth with the number is a line of slope 1.

matplotlib (Debian's python3-matplotlib, `contrib/needs plot`) is imported here only and only to draw: drawing axes is
not what gear is for, and nothing else of bench needs the 100 MB that come with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from testhostlib import ToolError

from .report import above_none
from .samples import Results

# Measure, case, metric, title, and whether what there is without containers is taken away.
PANELS = (
    ("list", "list", "list", "ps --all", True),
    ("list", "inspect all", "inspect", "inspect of all", False),
    ("burst", "", "burst-first", "all started at once, until the last one runs", False),
    ("reload", "units loaded", "reload", "daemon-reload with units loaded", True),
)
# One colour for each tool in all panels.
COLOURS = {
    "bare": "#777777", "gear": "#d03020", "podman": "#8030b0", "docker": "#2080d0", "lxc": "#20a060",
    "nspawn": "#c0a000", "crun": "#e08000", "runc": "#805030",
}  # fmt: skip


def draw(results: Results, path: Path) -> None:
    """Write the picture as SVG; raises ToolError without matplotlib, OSError."""
    try:
        import matplotlib
    except ImportError as err:
        raise ToolError("matplotlib is missing, which draws", hint="contrib/needs plot") from err
    matplotlib.use("svg")
    # Texts as texts, and the same picture of the same results.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "gear"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axis, panel in zip(axes.flat, PANELS, strict=True):
        draw_panel(axis, results, panel)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.MULTILINE))


def draw_panel(axis: Any, results: Results, panel: tuple[str, str, str, str, bool]) -> None:
    """One measure: a line for each tool."""
    measure, case, metric, title, above = panel
    for tool, colour in COLOURS.items():
        found = results.counts(measure, case, metric, tool)
        points = above_none(found) if above else [(count, found[count].median) for count in found if count]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", color=colour, label=tool)
    axis.set(xscale="log", yscale="log", title=title, xlabel="containers")
    axis.set_ylabel("seconds more than without any" if above else "seconds")
    axis.grid(True, which="both", alpha=0.3)
    if axis.lines:
        axis.legend()
