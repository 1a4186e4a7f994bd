"""The verbs that decide what a container is: install, apply."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gear import (
    composing,
    containers,
    files,
    host,
    install,
    lifecycle,
    publishing,
    store,
    switching,
    updating,
)
from gear.cli_plan import show_plans
from gear.cli_spec import have_image, options_of, spec_options
from gear.cli_supplies import warn
from gear.command import Context, Verb, add_output_option
from gear.errors import GearError, UsageError
from gear.model import container_name
from gear.systemd import Manager


def _install_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", metavar="IMAGE", help="what gear image list shows, or a directory as host:/PATH"
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="what the container is called; K=V sets a variable"
    )
    parser.add_argument(
        "--start", action="store_true", help="start it, now and at every boot; restart it if it changed"
    )
    spec_options(parser)
    parser.add_argument(
        "--locked", metavar="FILE", help="take the digest that this lock file has, and no other"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change, as gear plan does")
    add_output_option(parser)


def _run_install(args: argparse.Namespace, context: Context) -> int:
    names, options = options_of(args, args.command)
    if args.dry_run:
        if args.locked is not None:
            raise UsageError("--dry-run goes by what is here, and does not mean anything with --locked.")
        return show_plans(context, args, names, options)
    host.require_root("install containers")
    host.require_isolation()
    for name in names if len(names) == 1 else ():
        container_name(name)  # before anything is fetched for it
    warn(context, options["supplies"])
    digest = None
    if args.locked is not None:
        args.image, digest = _locked(args, context)
    else:
        args.image = have_image(args, context)
    status, reports, done = 0, [], []
    before: dict[str, updating.Before | None] = {}
    with Manager() as manager:
        publishing.require_unit_directory(manager, context.layout)
        for word in names:
            try:
                name = container_name(word)
                before[name] = updating.look(manager, context.layout, name)
                done.append(install.install(context.layout, name, args.image, options, digest))
            except GearError as error:
                context.fail(error)
                status = max(status, error.exit_status)
        if done:
            publishing.acquaint(manager, context.layout, [item.spec.name for item in done])
        for item in done:
            problem = updating.catch_up(manager, context.layout, before[item.spec.name], item.spec)
            if problem is not None:
                context.warn(problem.message)
            reports.append(_report(manager, context, item, started=args.start))
        if args.start:
            status = max(status, _start(manager, context, done, reports))
    for report in reports:
        if args.output != "json":
            context.report(_sentence(report))
    if args.output == "json":
        context.report_json(reports)
    return status


def _locked(args: argparse.Namespace, context: Context) -> tuple[str, str]:
    """Name and digest of the image that the lock file has, which is here then."""
    from gear import locking, progress

    path = Path(args.locked)
    reference, digest = locking.pinned(locking.read(path), args.image, path)
    with progress.shown() as shown:
        locking.have(context.layout, reference, digest, pull=args.pull != "never", progress=shown)
    return reference, digest


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
        "on_demand": item.spec.network.on_demand,
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
            report |= {"started": True, "restart_needed": False}
            report["running"] = report["running"] or not report["on_demand"]
        else:
            context.fail(error)
            status = max(status, error.exit_status)
    return status


def _sentence(report: dict[str, Any]) -> str:
    name, image = report["name"], report["image"]
    what = {
        "installed": f"{name} is installed from {_origin(image)} as {report['unit']}",
        "unchanged": f"{name} is as it was",
        "changed": f"{name} is changed: {', '.join(report['changes'])}",
    }[report["action"]]
    if report.get("restarted"):
        what += "; restarted, because it ran with what was before"
    elif report["started"]:
        what += "; listening" if report["on_demand"] else "; running"
    elif report["restart_needed"]:
        what += f"; it runs with what was before until: gear restart {name}"
    return what


def _origin(image: dict[str, str]) -> str:
    return f"{image['reference']} ({image['digest'][:19]})" if image["digest"] else image["reference"]


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
                switching.finish(context.layout, container_name(name))
                wanted = containers.get(context.layout, container_name(name))
                image = composing.image_of(context.layout, wanted)
                done.append(install.apply(context.layout, wanted, image))
        except GearError as error:
            context.fail(error)
            status = max(status, error.exit_status)
    with Manager() as manager:
        if done:
            publishing.acquaint(manager, context.layout, [item.spec.name for item in done])
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
        "apply",
        "write what a container's spec.json asks for",
        "Render the files of an installed container again from its spec.json, after it was edited or after an "
        "upgrade of gear; gear plan NAME shows beforehand what that changes.",
        _apply_arguments,
        _run_apply,
    ),
)
