"""The verbs of `gear config`: create, list, cat, rm."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from gear import host, objects, supplying
from gear.cli_supplies import documents, failures, remover, tell
from gear.command import Context, Verb, add_output_option, for_each, table
from gear.errors import GearError
from gear.supplies import CONFIG, object_name
from gear.systemd import Manager


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", type=object_name, help="what the config is called")
    add("file", metavar="FILE", nargs="?", default="-", help="what is in it; standard input if not given")
    add("--replace", action="store_true", help="change a config that is there, also for containers that run")
    add_output_option(parser)


def _run_create(args: argparse.Namespace, context: Context) -> int:
    host.require_root("keep configs")
    data = objects.read_given(args.file)

    def write() -> None:
        if objects.exists(context.layout, CONFIG, args.name) and not args.replace:
            raise GearError(f"There is a config {args.name} already.", hint="--replace changes it.")
        objects.write(context.layout, CONFIG, args.name, {"data": data})

    with Manager() as manager:
        effects = supplying.change(manager, context.layout, CONFIG, args.name, write)
    if args.output == "json":
        context.report_json({"name": args.name, "effects": documents(effects)})
        return failures(context, effects)
    context.report(f"the config {args.name} is kept")
    return tell(context, effects)


def _run_list(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at configs")
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "size": len(objects.read(context.layout, CONFIG, name)),
            "containers": supplying.users(context.layout, CONFIG, name),
        }
        for name in objects.names(context.layout, CONFIG)
    ]
    if args.output == "json":
        context.report_json(rows)
    else:
        cells = [(row["name"], str(row["size"]), ", ".join(row["containers"]) or "-") for row in rows]
        context.report(table(("NAME", "BYTES", "CONTAINERS"), cells))
    return 0


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", type=object_name, help="a config")


def _run_cat(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at configs")

    def one(name: str) -> None:
        sys.stdout.buffer.write(objects.read(context.layout, CONFIG, name))
        sys.stdout.buffer.flush()

    return for_each(args.names, one, context)


VERBS = (
    Verb(
        "create",
        "keep a config file, or change one",
        "Keep what is in FILE, or comes by standard input, as the config NAME for gear install --config.  With "
        "--replace containers that run get it at once, and those with --reload-signal are told.",
        _create_arguments,
        _run_create,
    ),
    Verb("list", "list configs", "List the configs, and who uses them.", add_output_option, _run_list),
    Verb("cat", "print configs", "Print what is in configs, as it is.", _names, _run_cat),
    Verb("rm", "remove configs", "Remove configs that no container uses.", _names, remover(CONFIG)),
)
