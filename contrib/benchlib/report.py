"""Results as tables for people, which are Markdown as well; pure."""

from __future__ import annotations

from collections.abc import Iterable

from .samples import Results, Sample, each, exponent

# What others are held against, the first of them that was measured.
FLOORS = ("bare", "systemctl", "host", "podman")
# The measures whose costs are followed over numbers of containers.
GROWING = ("list", "reload", "burst")


def tables(results: Results) -> str:
    """All of it: where it was measured, a table of each measure and case, and what is missing and why."""
    parts = [heading(results)]
    seen: dict[tuple[str, str], None] = {}
    for sample in results.samples:
        seen[sample.measure, sample.case] = None
    for measure, case in seen:
        chosen = [sample for sample in results.samples if (sample.measure, sample.case) == (measure, case)]
        title = f"**{measure}**" + (f", {case}" if case else "")
        if any(sample.count is not None for sample in chosen):
            for metric in dict.fromkeys(sample.metric for sample in chosen):
                parts.append(f"{title}: {metric}\n\n{growth(results, measure, case, metric)}")
        else:
            parts.append(f"{title}\n\n{comparison(chosen)}")
    if results.missing:
        rows = dict.fromkeys(
            (entry.measure, entry.case, entry.tool, entry.reason) for entry in results.missing
        )
        lines = [[*row[:3], row[3].replace("|", "/").replace("\n", " ")] for row in rows]
        parts.append("**Not measured**\n\n" + grid(["measure", "case", "tool", "why"], lines))
    return "\n\n".join(parts) + "\n"


def heading(results: Results) -> str:
    """What it was measured on, and how each tool was run."""
    host = results.host
    versions = ", ".join(
        f"{name} {version.split(',')[0].split(' (')[0].split()[-1]}"
        for name, version in host.get("versions", {}).items()
        if version
    )
    lines = [
        f"{host.get('release')}, {host.get('kind')} host with cgroup {host.get('cgroup')}, "
        f"{host.get('processors')} processors, load {host.get('load')} before and {host.get('load after')} after; "
        f"{host.get('rounds')} rounds, or fewer of what takes long. {versions}.",
        "",
        "Median [quartiles], and how many times the named tool that is.",
    ]
    for tool, note in host.get("notes", {}).items():
        lines.append(f"- {tool}: {note}")
    return "\n".join(lines)


def comparison(samples: list[Sample]) -> str:
    """One case: a line for each tool, a column for each metric."""
    metrics = list(dict.fromkeys(sample.metric for sample in samples))
    tools = list(dict.fromkeys(sample.tool for sample in samples))
    # What others are held against comes first.
    tools.sort(key=lambda tool: tool not in FLOORS[:-1])
    found = {(sample.tool, sample.metric): sample for sample in samples}
    rows = []
    for tool in tools:
        row = [tool]
        for metric in metrics:
            sample = found.get((tool, metric))
            floor = next((found[name, metric] for name in FLOORS if (name, metric) in found), None)
            row.append(cell(sample, floor))
        rows.append(row)
    return grid(["", *metrics], rows)


def cell(sample: Sample | None, floor: Sample | None) -> str:
    """A median with its quartiles, and its ratio to the floor."""
    if sample is None:
        return "-"
    text = f"{shown(sample.median, sample.unit)} [{shown(sample.low, sample.unit, bare=True)}"
    text += f"..{shown(sample.high, sample.unit, bare=True)}]"
    if floor is not None and floor is not sample and floor.median:
        text += f" {sample.median / floor.median:.2f}x {floor.tool}"
    return text


def growth(results: Results, measure: str, case: str, metric: str) -> str:
    """One metric over numbers of containers, a line for each tool.

    The last columns are what each of the last ones cost, and the power of the number that the whole grows with.
    """
    chosen = [s for s in results.samples if (s.measure, s.case, s.metric) == (measure, case, metric)]
    counts = sorted({sample.count for sample in chosen if sample.count is not None})
    unit = chosen[0].unit
    rows = []
    for tool in dict.fromkeys(sample.tool for sample in chosen):
        found = results.counts(measure, case, metric, tool)
        row = [tool, *(shown(found[count].median, unit) if count in found else "-" for count in counts)]
        further = each(results, measure, case, metric, tool)
        row.append(shown(list(further.values())[-1], unit) if further else "-")
        power = exponent(above_none(found))
        row.append("-" if power is None else f"{power:.2f}")
        rows.append(row)
    return grid(["containers", *map(str, counts), "each further", "grows as N^"], rows)


def above_none(found: dict[int, Sample]) -> list[tuple[float, float]]:
    """How many containers there are more than in the least case, and what they cost more, beyond chance."""
    if not found:
        return []
    (least, first), *more = found.items()
    return [
        (count - least, sample.median - first.median)
        for count, sample in more
        if sample.median - first.median > 0.1 * first.median
    ]


def placed(document: str, results: Results) -> str:
    """A document with the tables of its release and kind of host replaced; raises ValueError where it has no place."""
    words = f"bench {results.host['kind']} {results.host['release']}"
    begin, end = f"<!-- {words}: begin -->\n", f"<!-- {words}: end -->"
    before, found, rest = document.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the document has no lines {begin.strip()} and {end}")
    return f"{before}{begin}\n{tables(results)}\n{ended}{after}"


def shown(value: float, unit: str, *, bare: bool = False) -> str:
    """A number for people; *bare* without its unit."""
    if unit == "s":
        number, name = value * 1000, " ms"
        text = (
            f"{number:.0f}"
            if abs(number) >= 100
            else f"{number:.1f}"
            if abs(number) >= 1
            else f"{number:.3f}"
        )
    elif unit in ("B", "B/s"):
        divisor, name = (1 << 20, " MiB") if unit == "B" else (1e9, " GB/s")
        text = f"{value / divisor:.2f}"
    else:
        name = "/s" if unit == "1/s" else ""
        text = f"{value:.0f}" if value >= 100 else f"{value:.2g}"
    return text if bare else text + name


def grid(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown, with columns as wide as they have to be."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    drawn = [
        "| " + " | ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    drawn.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(drawn)
