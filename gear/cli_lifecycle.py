"""The verbs that run containers and look at each: start, stop, restart, status, inspect."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gear import cli_upgrade_state, containers, host, lifecycle
from gear.command import Context, Verb, add_output_option, printable
from gear.errors import GearError
from gear.model import container_name
from gear.systemd import Manager

# systemctl status says 3 for a unit that is not active, which is no failure to report.
_STATUS_ACCEPTED = (0, 3)
# What a start does for a container that is started on demand.
_LISTENS = "starts at the first connection"


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="+", type=container_name, help="an installed container"
    )


def _tell(
    context: Context, outcome: Mapping[str, GearError | None], done: str, on_demand: str | None = None
) -> int:
    """Report each outcome, *on_demand* for what is done with containers of that kind; returns the exit status."""
    status = 0
    for name, error in outcome.items():
        if error is None:
            spec = containers.existing(context.layout, name) if on_demand else None
            context.report(f"{name} {on_demand if spec is not None and spec.network.on_demand else done}")
        else:
            context.fail(error)
            status = max(status, error.exit_status)
    return status


def _run_start(args: argparse.Namespace, context: Context) -> int:
    host.require_root("start containers")
    with Manager() as manager:
        status = cli_upgrade_state.finish(manager, context, args.names)
        outcome = lifecycle.start(manager, context.layout, args.names)
        return max(status, _tell(context, outcome, "is running", _LISTENS))


def _run_restart(args: argparse.Namespace, context: Context) -> int:
    host.require_root("restart containers")
    with Manager() as manager:
        status = cli_upgrade_state.finish(manager, context, args.names)
        outcome = lifecycle.start(manager, context.layout, args.names, again=True)
        return max(status, _tell(context, outcome, "is running again", _LISTENS))


def _run_stop(args: argparse.Namespace, context: Context) -> int:
    host.require_root("stop containers")
    with Manager() as manager:
        return _tell(context, lifecycle.stop(manager, context.layout, args.names), "is stopped")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser)
    add_output_option(parser)


def _run_status(args: argparse.Namespace, context: Context) -> int:
    from gear import process
    from gear.status import look

    host.require_root("look at containers")
    status, states = 0, []
    with Manager() as manager:
        for name in args.names:
            try:
                spec = containers.get(context.layout, name)
                seen = look(manager, context.layout, name)
                states.append(cli_upgrade_state.state(manager, context, spec, seen))
            except GearError as error:
                context.fail(error)
                status = max(status, error.exit_status)
    if args.output == "json":
        context.report_json(states)
        return status
    for number, state in enumerate(states):
        if number:
            context.report("")
        command = ["systemctl", "--no-pager", "status", state["unit"]]
        sys.stdout.flush()
        if process.show(command) not in _STATUS_ACCEPTED:
            status = max(status, 1)
        context.report("")
        for label, text in _additions(state):
            context.report(f"{label:>11}: {text}")
    return status


def _additions(state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What gear knows of a container and systemctl does not."""
    from gear.limits import Limits

    image, ids = state["image"], state["uid_range"]
    lines = [
        ("Image", f"{image['reference']} ({image['digest'] or 'a directory of this host'})"),
        (
            "Network",
            f"{state['net']}, {', '.join(state['addresses']) or 'no address of its own'}",
        ),
        ("Ports", ", ".join(state["ports"]) or "none published"),
        *([("Limits", ", ".join(limits))] if (limits := Limits.read(state["limits"]).words()) else []),
        ("User ids", _range(ids["base"], ids["size"]) if ids else "the host's own"),
        ("At boot", _at_boot(state)),
    ]
    lines += cli_upgrade_state.lines(state)
    lines += _wellness(state)
    if state["on_demand"]:
        idle = f"; stops when idle for {state['idle_stop']} s" if state["idle_stop"] else ""
        closed = "" if state["listening"] == "listening" else f"; nobody listens: gear start {state['name']}"
        lines.append(("On demand", f"starts at the first connection{idle}{closed}"))
    if state["paused"]:
        lines.append(("Paused", f"runs again with: gear resume {state['name']}"))
    if state["restart_needed"]:
        lines.append(("Changed", f"runs with what was before until: gear restart {state['name']}"))
    return lines


def _wellness(state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Whether it is well, and how often PID 1 had to start it again."""
    lines = []
    if health := state["health"]:
        last, text = health["last"], health["status"]
        if health["failing"] and last:
            said = " ".join(str(last["output"]).split())[:200]
            text += (
                f", {health['failing']} failing probes, the last: {last['why']}{': ' if said else ''}{said}"
            )
        lines.append(("Health", printable(text)))
    if state["active_state"] == "failed":
        after = f" after {state['restarts']} starts" if state["restarts"] else ""
        lines.append(("Failed", f"result {state['result']}{after}; again with: gear start {state['name']}"))
    elif state["restarts"]:
        lines.append(("Restarted", f"{state['restarts']} times by PID 1"))
    return lines


def _at_boot(state: Mapping[str, Any]) -> str:
    if state["boot"] != "enabled":
        return "does not start"
    return "listens" if state["on_demand"] else "starts"


def _range(base: int, size: int) -> str:
    return f"{base} to {base + size - 1} on the host are 0 to {size - 1} inside"


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser)
    parser.add_argument("--output", choices=("json",), default="json", help="inspect always prints JSON")


# What systemd has in force for a container, shown by inspect: names of properties.
_IN_FORCE = (
    "ActiveState",
    "SubState",
    "UnitFileState",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "MainPID",
    "ControlGroup",
    "Slice",
    "MemoryMin",
    "MemoryLow",
    "MemoryHigh",
    "MemoryMax",
    "MemorySwapMax",
    "MemoryCurrent",
    "CPUWeight",
    "CPUQuotaPerSecUSec",
    "IOWeight",
    "TasksMax",
    "OOMPolicy",
    "ManagedOOMMemoryPressure",
    "Restart",
    "NRestarts",
)


def _run_inspect(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look at containers")

    # Which bring what the other verbs can do without.
    from gear import composing, effective, snapshots, upgrade_record
    from gear.status import look

    def inspect(manager: Manager, name: str) -> dict[str, Any]:
        spec = containers.get(context.layout, name)
        image = composing.image_of(context.layout, spec)
        seen = look(manager, context.layout, name)
        values = seen.properties if seen.unit == spec.unit else manager.look(spec.unit)[0]
        properties = {key: values[key] for key in _IN_FORCE if key in values}
        rendered = composing.render(spec, image, context.layout)
        return {
            "spec": spec.to_mapping(),
            "state": cli_upgrade_state.state(manager, context, spec, seen),
            "upgrades": [entry.document() for entry in upgrade_record.read(context.layout, name).history],
            "systemd": properties,
            "kernel": effective.limits(str(properties.get("ControlGroup") or "")),
            "files": [str(path) for path in rendered],
            "altered": [str(path) for path in composing.compare(rendered)],
            "snapshots": [snapshot.document() for snapshot in snapshots.listing(context.layout, name)],
        }

    documents, status = _collect(args.names, context, inspect)
    context.report_json(documents)
    return status


def _collect(
    names: Sequence[str], context: Context, look: Callable[[Manager, str], dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    status, documents = 0, []
    with Manager() as manager:
        for name in names:
            try:
                documents.append(look(manager, name))
            except GearError as error:
                context.fail(error)
                status = max(status, error.exit_status)
    return documents, status


VERBS = (
    Verb(
        "start",
        "start containers, now and at every boot",
        "Start containers and wait until each payload runs.  When one does not start, say why, with the last lines of "
        "its journal.  Started containers start again at boot.",
        _names,
        _run_start,
    ),
    Verb(
        "stop",
        "stop containers and keep them from starting at boot",
        "Send the stop signal and wait for the payload to end; after the stop timeout it is killed.  A payload that "
        "has no handler for the signal is not waited for.  Stopped containers do not start at boot.",
        _names,
        _run_stop,
    ),
    Verb(
        "restart",
        "stop containers and start them again",
        "Stop and start containers, so that they run with what was installed last.",
        _names,
        _run_restart,
    ),
    Verb(
        "status",
        "show what systemd and gear know of containers",
        "Print what systemctl status prints, and the image, network, ports and user ids of each container.",
        _status_arguments,
        _run_status,
    ),
    Verb(
        "inspect",
        "print everything about containers as JSON",
        "Print the specification, the state, what systemd has in force, and the files that were altered since install.",
        _inspect_arguments,
        _run_inspect,
    ),
)
