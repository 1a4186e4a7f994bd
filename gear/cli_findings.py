"""How verbs that check report what they have found: fsck, network check."""

from __future__ import annotations

from collections.abc import Iterable

from gear.command import Context, printable
from gear.mending import Outcome


def report(outcomes: Iterable[Outcome], context: Context, *, as_json: bool, repair: bool) -> int:
    """Print *outcomes* as they come; returns the exit status, 1 if something is wrong still."""
    seen = []
    for outcome in outcomes:
        seen.append(outcome)
        if not as_json:
            _tell(outcome, context)
    wrong = sum(outcome.is_wrong for outcome in seen)
    if as_json:
        context.report_json([outcome.document() for outcome in seen])
    elif not any(not outcome.finding.foreign for outcome in seen):
        context.report("everything is as it should be")
    elif wrong:
        context.report(f"{wrong} fault{' is' if wrong == 1 else 's are'} left")
    else:
        context.report("nothing is damaged" if not repair else "nothing is damaged any more")
    return 1 if wrong else 0


def _tell(outcome: Outcome, context: Context) -> None:
    finding = outcome.finding
    kind = "damaged" if finding.damage else "notice" if finding.foreign else "left over"
    if outcome.mended:
        kind = "removed" if finding.lost or not finding.damage else "mended"
    context.report(f"{kind}: {printable(str(finding))}")
    if outcome.problem:
        context.report(f"  not mended: {printable(outcome.problem)}")
    if (outcome.is_wrong or finding.foreign) and finding.hint:
        context.report(f"  to do: {printable(finding.hint)}")
