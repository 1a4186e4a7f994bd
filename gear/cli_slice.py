"""The verbs for what several containers may use together: slice create, list, inspect, rm."""

from __future__ import annotations

import argparse

from gear import host, slices
from gear.budget import Budget, shown_size
from gear.cli_resources import budget_of, resource_options
from gear.command import Context, Verb, add_output_option, for_each, table
from gear.systemd import Manager


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="SLICE", help="its name, which begins with container-")
    resource_options(parser, of_slice=True)
    add_output_option(parser)


def _run_create(args: argparse.Namespace, context: Context) -> int:
    host.require_root("make slices")
    with Manager() as manager:
        made = slices.create(manager, context.layout, args.name, lambda budget: budget_of(args, budget))
    if args.output == "json":
        context.report_json(
            {
                "name": made.name,
                "action": "created" if made.created else "changed" if made.changes else "unchanged",
                "changes": list(made.changes),
                "resources": made.budget.to_mapping(),
            }
        )
    elif made.created:
        context.report(f"{made.name} is created: {', '.join(made.budget.words()) or 'no limits'}")
    elif made.changes:
        context.report(f"{made.name} is changed at once: {', '.join(made.changes)}")
    else:
        context.report(f"{made.name} is as it was")
    return 0


def _run_list(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at slices")
    rows = []

    def one(name: str) -> None:
        rows.append(slices.summary(context.layout, name))

    status = for_each(slices.names(context.layout), one, context)
    if args.output == "json":
        context.report_json(rows)
        return status
    cells = []
    for row in rows:
        budget = Budget.read(row["resources"]).words()
        used = row["used"]
        cells.append(
            (
                row["name"],
                ", ".join(budget) or ("-" if row["made"] else "comes with gear"),
                _mebibytes(used["memory"]) if "memory" in used else "-",
                str(used.get("tasks", "-")),
                " ".join(row["containers"]) or "-",
            )
        )
    context.report(table(("SLICE", "BUDGET", "MEMORY", "TASKS", "CONTAINERS"), cells))
    return status


def _mebibytes(size: int) -> str:
    return shown_size(size >> 20 << 20) if size >> 20 else f"{size >> 10}k"


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="SLICE", nargs="+", help="a slice")


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser)
    parser.add_argument("--output", choices=("json",), default="json", help="inspect always prints JSON")


def _run_inspect(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at slices")
    documents = []
    with Manager() as manager:

        def one(name: str) -> None:
            documents.append(slices.details(manager, context.layout, name))

        status = for_each(args.names, one, context)
    context.report_json(documents)
    return status


def _run_rm(args: argparse.Namespace, context: Context) -> int:
    host.require_root("remove slices")
    with Manager() as manager:

        def one(name: str) -> None:
            found = slices.remove(manager, context.layout, name)
            context.report(f"{name} is removed" if found else f"{name} is no slice, so nothing was removed")

        return for_each(args.names, one, context)


VERBS = (
    Verb(
        "create",
        "make a slice with a budget for several containers, or change one",
        "Define the slice SLICE, whose containers together use no more than its budget; they join it with --slice.  "
        "Running it again changes the limits that are named, at once; a value of none takes one away.",
        _create_arguments,
        _run_create,
    ),
    Verb(
        "list",
        "list the slices, their budgets and what is used",
        "List the slices that containers can be in, what was asked for of each, what is used now, and who is in it.",
        add_output_option,
        _run_list,
    ),
    Verb(
        "inspect",
        "print everything about slices as JSON",
        "Print the budget of each slice, what systemd and the kernel have in force, and the containers in it.",
        _inspect_arguments,
        _run_inspect,
    ),
    Verb(
        "rm",
        "remove slices that no container is in",
        "Remove slices.  One that a container is in is refused.  Removing one that is not there is no error.",
        _names,
        _run_rm,
    ),
)
