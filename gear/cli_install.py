"""The verbs that decide what a container is: install, plan, apply."""

from __future__ import annotations

import argparse
import codecs
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gear import containers, files, host, install, lifecycle, spec, store
from gear.command import Context, Verb, add_output_option, write_output
from gear.errors import GearError, UsageError
from gear.model import container_name
from gear.systemd import Manager

_ENV_FILE_LIMIT = 1 << 20  # bytes


def _install_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a reference or digest that gear image list shows")
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="what the container is called; K=V sets a variable"
    )
    parser.add_argument(
        "--start", action="store_true", help="start it, now and at every boot; restart it if it changed"
    )
    _spec_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would change, as gear plan does")
    add_output_option(parser)


def _spec_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--entrypoint", metavar="COMMAND", help="run this instead of the image's entrypoint; empty for none")
    add("-u", "--user", metavar="USER[:GROUP]", help="run as this user of the image, by name or number")
    add("-w", "--workdir", metavar="DIRECTORY", help="start in this directory of the container")
    add(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="set a variable; NAME alone takes gear's own value",
    )
    add(
        "--env-file",
        metavar="FILE",
        action="append",
        default=[],
        help="set the variables in FILE, one NAME=VALUE a line",
    )
    add(
        "-v",
        "--volume",
        metavar="SOURCE:DIRECTORY[:OPTIONS]",
        action="append",
        default=[],
        help="mount a host path, or the named volume SOURCE",
    )
    add(
        "--tmpfs",
        metavar="DIRECTORY[:OPTIONS]",
        action="append",
        default=[],
        help="mount an empty file system in memory",
    )
    add("--read-only", action="store_true", help="make the container's root read-only")
    add("--hostname", metavar="NAME", help="the host name inside; the container's name if not given")
    add(
        "-l",
        "--label",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a note of your own, shown by gear inspect",
    )
    add(
        "--slice",
        metavar="SLICE",
        default="container.slice",
        help="the slice it runs in, for example container-small",
    )
    add("-m", "--memory", metavar="SIZE", help="the most memory it may use, for example 512m")
    add("--cpus", metavar="NUMBER", help="the most processor time it may use, for example 0.5")
    add("--pids-limit", metavar="NUMBER", help="the most processes and threads it may have (2048)")
    add(
        "--restart",
        metavar="POLICY",
        default="on-failure",
        help="when PID 1 starts it again: no, on-failure (default), always",
    )
    add(
        "--stop-signal",
        metavar="SIGNAL",
        help="what asks it to stop; the image's signal or SIGTERM if not given",
    )
    add("--stop-timeout", metavar="SECONDS", default="10", help="how long it may take to stop (10)")
    add(
        "--net",
        metavar="NETWORK",
        default="none",
        help="none (default): loopback only; host: the host's network",
    )
    add(
        "--isolate",
        action="store_true",
        help="geard's word for user ids of its own, which every container has now",
    )


def options_of(args: argparse.Namespace, command: tuple[str, ...] | None) -> tuple[list[str], dict[str, Any]]:
    """The container names and the fields of Spec that a command line asks for; raises UsageError."""
    names, env = [], _env_files(args.env_file)
    for entry in args.env:
        name, separator, value = entry.partition("=")
        if separator:
            env[spec.environment_name(name)] = value
        elif name in os.environ:
            env[spec.environment_name(name)] = os.environ[name]
        else:
            raise UsageError(f"The variable {name} is not set here, so its value can't be passed on.")
    for item in args.names:
        name, separator, value = item.partition("=")
        if separator:
            env[spec.environment_name(name)] = value
        else:
            names.append(item)
    if not names:
        raise UsageError("No container is named.", hint="gear install IMAGE NAME...")
    mounts = [spec.parse_volume(text) for text in args.volume] + [
        spec.parse_tmpfs(text) for text in args.tmpfs
    ]
    destinations = [mount.destination for mount in mounts]
    for destination in destinations:
        if destinations.count(destination) > 1:
            raise UsageError(f"Two mounts are asked for on {destination}.")
    if args.stop_signal is not None:
        spec.signal_number(args.stop_signal)
    labels = dict(_pair(text) for text in args.label)
    return names, {
        "entrypoint": None if args.entrypoint is None else ((args.entrypoint,) if args.entrypoint else ()),
        "command": command,
        "env": env,
        "user": args.user,
        "workdir": None
        if args.workdir is None
        else spec.container_path(args.workdir, "The working directory"),
        "mounts": tuple(mounts),
        "read_only": args.read_only,
        "hostname": None if args.hostname is None else spec.host_name(args.hostname),
        "labels": labels,
        "slice": spec.slice_name(args.slice),
        "memory": None if args.memory is None else spec.memory_limit(spec.parse_size(args.memory)),
        "cpus": None if args.cpus is None else spec.cpu_limit(args.cpus),
        "pids_limit": None if args.pids_limit is None else spec.pids_limit(_number(args.pids_limit)),
        "restart": spec.restart_policy(args.restart),
        "stop_signal": args.stop_signal,
        "stop_timeout": spec.stop_timeout(args.stop_timeout),
        "net": spec.network(args.net),
    }


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise UsageError(f"{text!r} is no label.", hint="Write NAME=VALUE.")
    return name, value


def _env_files(paths: Sequence[str]) -> dict[str, str]:
    """The variables in files of NAME=VALUE lines, as Docker reads them: nothing is unquoted or expanded, and a byte
    order mark at the beginning is none of the name."""
    env: dict[str, str] = {}
    for path in paths:
        data = files.read_bytes(Path(path), _ENV_FILE_LIMIT)
        if data is None:
            raise UsageError(f"There is no file {path} to read variables from.")
        for number, line in enumerate(os.fsdecode(data.removeprefix(codecs.BOM_UTF8)).split("\n"), 1):
            text = line.removesuffix("\r").lstrip()
            if not text or text.startswith("#"):
                continue
            name, separator, value = text.partition("=")
            if not name or any(character.isspace() for character in name) or "\0" in text:
                raise UsageError(f"Line {number} of {path} is not NAME=VALUE.")
            if separator:
                env[name] = value
            elif name in os.environ:
                env[name] = os.environ[name]
    return env


def _run_install(args: argparse.Namespace, context: Context) -> int:
    names, options = options_of(args, args.command)
    if args.dry_run:
        return _show_plans(context, args, names, options)
    host.require_root("install containers")
    host.require_isolation()
    status, reports, done = 0, [], []
    with Manager() as manager:
        for name in names:
            try:
                done.append(install.install(context.layout, container_name(name), args.image, options))
            except GearError as error:
                context.fail(error)
                status = max(status, error.exit_status)
        if done:
            install.acquaint(manager, context.layout, [item.spec.name for item in done])
        for item in done:
            reports.append(_report(manager, context, item, started=args.start))
        if args.start:
            status = max(status, _start(manager, context, done, reports))
    for report in reports:
        if args.output != "json":
            context.report(_sentence(report))
    if args.output == "json":
        context.report_json(reports)
    return status


def _report(manager: Manager, context: Context, item: install.Installed, *, started: bool) -> dict[str, Any]:
    service = manager.properties(item.spec.unit, "Service")
    running = bool(service.get("MainPID"))
    return {
        "name": item.spec.name,
        "unit": item.spec.unit,
        "image": {"reference": item.spec.image.reference, "digest": item.spec.image.digest},
        "action": "installed" if item.created else "changed" if item.changes else "unchanged",
        "changes": list(item.changes),
        "running": running,
        "restart_needed": containers.is_stale(item.spec, context.layout, service),
        "started": False,
    }


def _start(
    manager: Manager, context: Context, done: list[install.Installed], reports: list[dict[str, Any]]
) -> int:
    stale = [report["name"] for report in reports if report["restart_needed"]]
    fresh = [item.spec.name for item in done if item.spec.name not in stale]
    outcome = lifecycle.start(manager, context.layout, fresh) | lifecycle.start(
        manager, context.layout, stale, again=True
    )
    status = 0
    for report in reports:
        error = outcome[report["name"]]
        if error is None:
            report["restarted"] = report["name"] in stale
            report |= {"started": True, "restart_needed": False, "running": True}
        else:
            context.fail(error)
            status = max(status, error.exit_status)
    return status


def _sentence(report: dict[str, Any]) -> str:
    name, image = report["name"], report["image"]
    what = {
        "installed": f"{name} is installed from {image['reference']} ({image['digest'][:19]}) as {report['unit']}",
        "unchanged": f"{name} is as it was",
        "changed": f"{name} is changed: {', '.join(report['changes'])}",
    }[report["action"]]
    if report.get("restarted"):
        what += "; restarted, because it ran with what was before"
    elif report["started"]:
        what += "; running"
    elif report["restart_needed"]:
        what += f"; it runs with what was before until: gear restart {name}"
    return what


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", metavar="IMAGE|NAME", help="an image, or with nothing else an installed container"
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="what the container would be called; K=V sets a variable"
    )
    _spec_options(parser)
    add_output_option(parser)


def _run_plan(args: argparse.Namespace, context: Context) -> int:
    if not args.names:
        _refuse_options(args)
        host.require_root("read the specifications of containers")
        wanted = containers.get(context.layout, container_name(args.image))
        image = containers.image_of(context.layout, wanted)
        _show(context, args, [(wanted.name, install.preview(context.layout, wanted, image))])
        return 0
    names, options = options_of(args, args.command)
    return _show_plans(context, args, names, options)


def _refuse_options(args: argparse.Namespace) -> None:
    """Raise UsageError for options beside the name of an installed container, whose spec says everything."""
    parser = argparse.ArgumentParser(add_help=False)
    _spec_options(parser)
    given = [name for name, default in vars(parser.parse_args([])).items() if getattr(args, name) != default]
    if given or args.command is not None:
        raise UsageError(
            f"gear plan {args.image} shows what the spec of {args.image} asks for, and takes no other options.",
            hint="To see what install would do: gear plan IMAGE NAME [OPTION...]",
        )


def _show_plans(
    context: Context, args: argparse.Namespace, names: Sequence[str], options: dict[str, Any]
) -> int:
    host.require_root("read the specifications of containers")
    status, plans = 0, []
    for name in names:
        try:
            image = store.resolve(context.layout, args.image)
            wanted = install.request(context.layout, container_name(name), image, options)
            host.require_controllers(wanted)
            plans.append((name, install.preview(context.layout, wanted, image)))
        except GearError as error:
            context.fail(error)
            status = max(status, error.exit_status)
    _show(context, args, plans)
    return status


_Plan = tuple[str, dict[Path, tuple[bytes | None, bytes]]]


def _show(context: Context, args: argparse.Namespace, plans: Sequence[_Plan]) -> None:
    if args.output == "json":
        context.report_json(
            [
                {
                    "name": name,
                    "changes": [
                        {
                            "path": str(path),
                            "action": "create" if found is None else "replace",
                            "diff": _diff(path, found, new),
                        }
                        for path, (found, new) in changed.items()
                    ],
                }
                for name, changed in plans
            ]
        )
        return
    for name, changed in plans:
        if not changed:
            context.report(f"{name}: nothing would change")
        for path, (found, new) in changed.items():
            write_output(_diff(path, found, new))


def _diff(path: Path, found: bytes | None, new: bytes) -> str:
    """A unified diff, which patch(1) understands."""
    before = (found or b"").decode(errors="replace").splitlines(keepends=True)
    after = new.decode(errors="replace").splitlines(keepends=True)
    source = "/dev/null" if found is None else str(path)
    return "".join(difflib.unified_diff(before, after, source, str(path)))


def _apply_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="an installed container")
    add_output_option(parser)


def _run_apply(args: argparse.Namespace, context: Context) -> int:
    host.require_root("install containers")
    host.require_isolation()
    status, done = 0, []
    for name in args.names:
        try:
            with files.locked(context.layout.lock), store.lease(context.layout):
                wanted = containers.get(context.layout, container_name(name))
                image = containers.image_of(context.layout, wanted)
                done.append(install.apply(context.layout, wanted, image))
        except GearError as error:
            context.fail(error)
            status = max(status, error.exit_status)
    with Manager() as manager:
        if done:
            install.acquaint(manager, context.layout, [item.spec.name for item in done])
        reports = [_report(manager, context, item, started=False) for item in done]
    if args.output == "json":
        context.report_json(reports)
    else:
        for report in reports:
            context.report(_sentence(report))
    return status


VERBS = (
    Verb(
        "install",
        "make a container of an image, or change one",
        "Create or replace the container NAME as the service ctr-NAME.service.  Running it again with the same "
        "arguments changes nothing; with others it says what changed, and a running container keeps what it was "
        "started with until it is restarted.  What stands after -- is the command to run instead of the image's.",
        _install_arguments,
        _run_install,
        takes_command=True,
    ),
    Verb(
        "plan",
        "show what install would change, as a diff",
        "With the arguments of install, show every file that it would write or change, and write nothing.  With just "
        "the name of an installed container, show how its files differ from what its spec.json asks for.",
        _plan_arguments,
        _run_plan,
        takes_command=True,
    ),
    Verb(
        "apply",
        "write what a container's spec.json asks for",
        "Render the files of an installed container again from its spec.json, after it was edited or after an "
        "upgrade of gear; gear plan NAME shows beforehand what that changes.",
        _apply_arguments,
        _run_apply,
    ),
)
