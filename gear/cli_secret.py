"""The verbs of `gear secret`: create, list, inspect, rm."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

from gear import credentials, host, objects, supplying
from gear.cli_supplies import documents, failures, remover, tell
from gear.command import Context, Verb, add_output_option, for_each, labels_of, table
from gear.errors import GearError
from gear.supplies import SECRET, object_name
from gear.systemd import Manager


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", type=object_name, help="what the secret is called")
    add(
        "file", metavar="FILE", nargs="?", default="-", help="what has its value; standard input if not given"
    )
    add("--replace", action="store_true", help="give a secret that is there another value")
    add("--key", choices=credentials.KEYS, default="auto", help="what it is encrypted with (auto)")
    add("-l", "--label", metavar="NAME[=VALUE]", action="append", default=[], help="a note of your own")
    add_output_option(parser)


def _run_create(args: argparse.Namespace, context: Context) -> int:
    host.require_root("keep secrets")
    if args.file == "-" and sys.stdin.isatty():
        value = getpass.getpass(f"Value of {args.name}: ").encode(errors="surrogateescape")
    else:
        value = objects.read_given(args.file)
    labels = labels_of(args.label) or None

    def write() -> None:
        if objects.exists(context.layout, SECRET, args.name) and not args.replace:
            raise GearError(
                f"There is a secret {args.name} already.", hint="--replace gives it another value."
            )
        credentials.create(context.layout, args.name, value, args.key, labels)

    with Manager() as manager:
        effects = supplying.change(manager, context.layout, SECRET, args.name, write)
    if args.output == "json":
        context.report_json(_document(context, args.name) | {"effects": documents(effects)})
        return failures(context, effects)
    context.report(f"the secret {args.name} is kept")
    return tell(context, effects)


def _document(context: Context, name: str) -> dict[str, Any]:
    users = supplying.users(context.layout, SECRET, name)
    return credentials.describe(context.layout, name) | {"containers": users}


def _run_list(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at secrets")
    rows: list[dict[str, Any]] = []
    names = objects.names(context.layout, SECRET)
    status = for_each(names, lambda name: rows.append(_document(context, name)), context)
    if args.output == "json":
        context.report_json(rows)
        return status
    cells = [(row["name"], row["key"], ", ".join(row["containers"]) or "-") for row in rows]
    context.report(table(("NAME", "KEY", "CONTAINERS"), cells))
    return status


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", type=object_name, help="a secret")


def _run_inspect(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at secrets")
    rows: list[dict[str, Any]] = []
    status = for_each(args.names, lambda name: rows.append(_document(context, name)), context)
    context.report_json(rows)
    return status


VERBS = (
    Verb(
        "create",
        "keep a secret, or replace one",
        "Encrypt what is in FILE, or comes by standard input, with a key of this machine, and keep it as the secret "
        "NAME for gear install --secret.  Its value is never shown again.",
        _create_arguments,
        _run_create,
    ),
    Verb("list", "list secrets", "List the secrets, and who uses them.", add_output_option, _run_list),
    Verb(
        "inspect",
        "show everything about secrets but their values",
        "Print labels, times and users of secrets in JSON.",
        _names,
        _run_inspect,
    ),
    Verb("rm", "remove secrets", "Remove secrets that no container uses.", _names, remover(SECRET)),
)
