"""The verb that checks everything: fsck."""

from __future__ import annotations

import argparse

from gear import fsck, host
from gear.command import Context, Verb, add_output_option, printable


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="mend what can be mended")
    parser.add_argument("--quick", action="store_true", help="compare names, sizes and records only")
    add_output_option(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    host.require_root("check what gear keeps")
    outcomes = []
    for outcome in fsck.fsck(context.layout, quick=args.quick, repair=args.repair):
        outcomes.append(outcome)
        if args.output == "json":
            continue
        finding = outcome.finding
        kind = "damaged" if finding.damage else "left over"
        if outcome.mended:
            kind = "removed" if finding.lost or not finding.damage else "mended"
        context.report(f"{kind}: {printable(str(finding))}")
        if outcome.problem:
            context.report(f"  not mended: {printable(outcome.problem)}")
        if outcome.is_wrong and finding.hint:
            context.report(f"  to do: {printable(finding.hint)}")
    wrong = sum(outcome.is_wrong for outcome in outcomes)
    if args.output == "json":
        context.report_json([outcome.document() for outcome in outcomes])
    elif not outcomes:
        context.report("everything is as it should be")
    elif wrong:
        context.report(f"{wrong} fault{' is' if wrong == 1 else 's are'} left")
    else:
        context.report("nothing is damaged" if not args.repair else "nothing is damaged any more")
    return 1 if wrong else 0


VERBS = (
    Verb(
        "fsck",
        "check all that gear keeps, and mend it",
        "Compare images, containers, volumes, user ids and units with what they should be. Without --repair nothing is "
        "changed. With it trees are unpacked again from their blobs, files rendered again, records written again, and "
        "remains of interrupted work removed; a damaged blob is removed, and it says which image to pull again. Data "
        "in volumes and writable layers is never removed. The exit status is 0 when nothing is damaged any more, and 1 "
        "otherwise. JSON is an array of objects with path, what, damage (false for what is only left over), mended, "
        "problem (why it was not mended) and hint (what to do).",
        _arguments,
        _run,
    ),
)
