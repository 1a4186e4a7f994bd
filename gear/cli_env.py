"""The verbs of environment sets, set-env and env, and reload."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import suppress

from gear import envsets, host, objects, spec, supplying, variables
from gear.cli_supplies import documents, failures, remover, tell
from gear.command import Context, Verb, add_output_option, for_each, table
from gear.errors import NotFoundError, UsageError
from gear.model import container_name
from gear.supplies import ENV_SET, object_name
from gear.systemd import Manager


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "words", metavar="ID|NAME=VALUE", nargs="+", help="the sets to change, and what to set in all of them"
    )
    add("--reset", action="store_true", help="forget what was set before")
    add("--unset", metavar="NAME", action="append", default=[], help="take a variable out")
    add("--env-file", metavar="FILE", action="append", default=[], help="set the variables in FILE")
    add(
        "--env-url",
        metavar="URL",
        help="set the variables in the file that is there, before those of --env-file",
    )
    add_output_option(parser)


def _run_set(args: argparse.Namespace, context: Context) -> int:
    host.require_root("change environment sets")
    ids = [object_name(word) for word in args.words if "=" not in word]
    if not ids:
        raise UsageError("No environment set is named.", hint="gear set-env ID NAME=VALUE...")
    added = variables.environment([word for word in args.words if "=" in word], args.env_file)
    for name in args.unset:
        if spec.environment_name(name) in added:
            raise UsageError(f"{name} is to be set and taken out.")
    if args.env_url is not None:
        from gear import download  # with the modules of the network

        data = download.document(context.layout, args.env_url, variables.FILE_LIMIT)
        added = variables.parse(data, "what came from the URL", inherit=False) | added
    reports = []
    with Manager() as manager:

        def one(name: str) -> None:
            effects = supplying.change(
                manager, context.layout, ENV_SET, name, lambda: _update(context, name, added, args)
            )
            status = failures(context, effects) if args.output == "json" else tell(context, effects)
            statuses.append(status)
            reports.append({"name": name, "effects": documents(effects)})

        statuses: list[int] = []
        status = for_each(ids, one, context)
    if args.output == "json":
        context.report_json(reports)
    return max([status, *statuses])


def _update(context: Context, name: str, added: Mapping[str, str], args: argparse.Namespace) -> None:
    old: dict[str, str] = {}
    if not args.reset:
        with suppress(NotFoundError):
            old = envsets.read(context.layout, name)
    kept = {key: value for key, value in old.items() if key not in args.unset}
    envsets.write(context.layout, name, kept | dict(added))


def _env_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "names",
        metavar="ID",
        nargs="*",
        type=object_name,
        help="an environment set; all are listed if none is given",
    )
    add("--rm", action="store_true", help="remove sets that no container uses")
    add(
        "--output",
        choices=("shell", "json", "raw0"),
        default="shell",
        help="lines that a shell reads (default), JSON, or NAME=VALUE with a NUL behind each",
    )


def _run_env(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at environment sets")
    if args.rm:
        if not args.names:
            raise UsageError("No environment set is named.", hint="gear env --rm ID")

        return remover(ENV_SET)(args, context)
    found: dict[str, dict[str, str]] = {}

    def read(name: str) -> None:
        found[name] = envsets.read(context.layout, name)

    status = for_each(args.names or objects.names(context.layout, ENV_SET), read, context)
    users = {name: supplying.users(context.layout, ENV_SET, name) for name in found}
    if args.output == "json":
        context.report_json(
            [{"name": name, "variables": found[name], "containers": users[name]} for name in found]
        )
    elif args.names:
        form = envsets.as_bytes if args.output == "raw0" else envsets.as_shell
        sys.stdout.buffer.write(b"".join(form(values) for values in found.values()))
        sys.stdout.buffer.flush()
    else:
        cells = [(name, str(len(found[name])), ", ".join(users[name]) or "-") for name in found]
        context.report(table(("ID", "VARIABLES", "CONTAINERS"), cells))
    return status


def _reload_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="+", type=container_name, help="an installed container"
    )


def _run_reload(args: argparse.Namespace, context: Context) -> int:
    host.require_root("reload containers")
    with Manager() as manager:

        def one(name: str) -> None:
            supplying.reload(manager, context.layout, name)
            context.report(f"{name} is reloaded")

        return for_each(args.names, one, context)


VERBS = (
    Verb(
        "set-env",
        "set variables that containers share",
        "Set variables in the environment set ID, which is made if it is not there; containers have it by gear install "
        "--env-set ID.  Those that run get a change when they are restarted.",
        _set_arguments,
        _run_set,
    ),
    Verb(
        "env",
        "show or remove environment sets",
        "Print the variables of environment sets, or list the sets there are.",
        _env_arguments,
        _run_env,
    ),
    Verb(
        "reload",
        "have containers read their configs again",
        "Send the payload the container's reload signal (gear install --reload-signal), as systemctl reload does.  One "
        "without a handler for it gets none, and that is an error.",
        _reload_arguments,
        _run_reload,
    ),
)
