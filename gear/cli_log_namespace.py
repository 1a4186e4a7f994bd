"""The verbs about log namespaces: create, list, rm."""

from __future__ import annotations

import argparse

from gear import budget, durations, host, journaling, log_namespaces
from gear.command import Context, Verb, add_output_option, for_each, table
from gear.journaling import NamespaceLimits, namespace_name
from gear.progress import amount
from gear.systemd import Manager


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("namespace", metavar="NAMESPACE", type=namespace_name, help="what it is called")
    add("--max-use", metavar="SIZE", help="the most that it keeps on disk, for example 100m")
    add("--max-file", metavar="SIZE", help="how large one of its files becomes; whole files are removed")
    add("--retention", metavar="TIME", help="how long entries are kept, for example 14d")
    add("--rate-limit", metavar="LINES/TIME", help="the most lines of each container, for example 1000/30s")


def _run_create(args: argparse.Namespace, context: Context) -> int:
    limits = NamespaceLimits(
        _size(args.max_use),
        _size(args.max_file),
        None if args.retention is None else journaling.parse_time(args.retention),
        None if args.rate_limit is None else journaling.parse_rate(args.rate_limit),
    )
    host.require_root("make log namespaces")
    with Manager() as manager:
        done = log_namespaces.create(manager, context.layout, args.namespace, limits)
    context.report(f"{args.namespace} is set" if done else f"{args.namespace} is as it was")
    return 0


def _size(text: str | None) -> int | None:
    return None if text is None else journaling.namespace_size(budget.parse_size(text))


def _run_list(args: argparse.Namespace, context: Context) -> int:
    host.require_root("list log namespaces")
    found = log_namespaces.listing(context.layout)
    if args.output == "json":
        context.report_json(
            [
                {
                    "name": item.name,
                    "limits": None if item.limits is None else item.limits.to_mapping(),
                    "containers": list(item.containers),
                    "size": item.size,
                }
                for item in found
            ]
        )
        return 0
    header = ("NAME", "SIZE", "LIMITS", "CONTAINERS")
    rows = [
        (item.name, amount(item.size), _words(item.limits), " ".join(item.containers) or "-")
        for item in found
    ]
    context.report(table(header, rows))
    return 0


def _words(limits: NamespaceLimits | None) -> str:
    if limits is None:
        return "journald's"
    words = [] if limits.max_use is None else [f"{amount(limits.max_use)} in all"]
    words += [] if limits.max_file is None else [f"{amount(limits.max_file)} a file"]
    words += [] if limits.retention is None else [durations.span(limits.retention)]
    if limits.rate is not None:
        rate = limits.rate
        words.append(f"{rate.burst} lines in {durations.span(rate.interval)}" if rate.burst else "any rate")
    return ", ".join(words) or "journald's"


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("namespaces", metavar="NAMESPACE", nargs="+", type=namespace_name, help="one of them")
    parser.add_argument("--entries", action="store_true", help="with all that is kept in it")


def _run_rm(args: argparse.Namespace, context: Context) -> int:
    host.require_root("remove log namespaces")
    with Manager() as manager:

        def remove(name: str) -> None:
            log_namespaces.remove(manager, context.layout, name, entries=args.entries)
            context.report(f"{name} is removed")

        return for_each(args.namespaces, remove, context)


VERBS = (
    Verb(
        "create",
        "say what a log namespace may keep",
        "Write what the journal of a log namespace may keep; what is not given is left to journald.  Containers write "
        "to it that are installed with --log-namespace.",
        _create_arguments,
        _run_create,
    ),
    Verb(
        "list",
        "list log namespaces",
        "List the log namespaces that have limits or containers, and how much they keep.",
        add_output_option,
        _run_list,
    ),
    Verb(
        "rm",
        "remove log namespaces",
        "Remove the limits of log namespaces, and end their journald.  What they keep stays unless asked for.",
        _rm_arguments,
        _run_rm,
    ),
)
