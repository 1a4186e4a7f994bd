"""The verb that lists containers: list-units, which is ps as well.  Fast also where there are a thousand."""

from __future__ import annotations

import argparse
import gc
from typing import Any

from gear import containers, groups, host, probed
from gear.command import Context, Verb, add_output_option, table
from gear.errors import GearError
from gear.model import listener_of
from gear.outline import Outline, connection
from gear.systemd import Manager, UnitState


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-a", "--all", action="store_true", help="also those that are installed and not loaded"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="names only, one a line")
    add_output_option(parser)


def _run_list(args: argparse.Namespace, context: Context) -> int:
    host.require_root("list containers")
    # Some hundred thousand small objects are made, and none of them is part of a circle.
    gc.disable()
    with Manager() as manager:
        units = manager.list_units(["ctr-*.service", "ctr-*.scope", "ctr-*.socket"])
        loaded = {unit.name: unit for unit in units if not unit.name.endswith(".socket")}
        listening = {
            f"ctr-{listener_of(unit.name)}.service"
            for unit in units
            if unit.name.endswith(".socket") and unit.active == "active"
        }
        return _list(args, context, manager, loaded, listening)


def _is_paused(manager: Manager, outline: Outline, unit: UnitState | None) -> bool:
    """Whether it is frozen: read from the kernel's files, since PID 1 can only be asked for one unit at a time."""
    if unit is None or unit.active != "active":
        return False
    frozen = groups.frozen(f"{groups.slice_path(outline.slice)}/{unit.name}")
    return manager.is_frozen(unit.name) if frozen is None else frozen


def _result(manager: Manager, unit: UnitState) -> str | None:
    """How a service that has failed ended; None for others."""
    if unit.active != "failed" or not unit.name.endswith(".service"):
        return None
    return str(manager.get(unit.name, "Result", "s", "org.freedesktop.systemd1.Service"))


def _list(
    args: argparse.Namespace,
    context: Context,
    manager: Manager,
    loaded: dict[str, UnitState],
    listening: set[str],
) -> int:
    rows: list[dict[str, Any]] = []
    status = 0
    for name in containers.names(context.layout):
        try:
            outline = containers.outline(context.layout, name)
        except GearError as error:
            context.fail(error)
            status = max(status, error.exit_status)
            continue
        unit_id = containers.unit_of(context.layout, name)
        unit = loaded.get(unit_id)
        if unit is None and not args.all:
            continue
        paused = _is_paused(manager, outline, unit)
        unit = unit or UnitState(unit_id, "stub", "inactive", "dead")
        health = probed.health(context.layout, name, unit.active, listed=True)
        rows.append(
            {
                "name": name,
                "unit": unit_id,
                "load_state": unit.load,
                "active_state": unit.active,
                "sub_state": unit.sub,
                "paused": paused,
                "image": outline.image.reference,
                "digest": outline.image.digest,
                **connection(outline.network),
                "listening": unit_id in listening,
                "health": health and health["status"],
                "result": _result(manager, unit),
            }
        )
    if args.output == "json":
        context.report_json(rows)
    elif args.quiet:
        if rows:
            context.report("\n".join(row["name"] for row in rows))
    else:
        columns = ("name", "active_state", "sub_state", "load_state", "image", "address", "ports", "unit")
        header = ("NAME", "ACTIVE", "SUB", "LOAD", "IMAGE", "ADDRESS", "PORTS", "UNIT")
        shown = [
            row
            | {"address": row["address"] or "-", "ports": " ".join(row["ports"]) or "-"}
            | ({"sub_state": row["health"]} if row["health"] and row["active_state"] == "active" else {})
            | ({"sub_state": row["result"]} if row["result"] else {})
            | ({"sub_state": "paused"} if row["paused"] else {})
            | ({"sub_state": "listening"} if row["active_state"] != "active" and row["listening"] else {})
            for row in rows
        ]
        context.report(table(header, [[row[column] for column in columns] for row in shown]))
    return status


VERBS = (
    Verb(
        "list-units",
        "list the containers that are loaded",
        "List the containers whose unit is loaded: running, starting, failed.  With --all every installed one.",
        _list_arguments,
        _run_list,
    ),
)
