"""Starting and stopping containers, which systemd does; here it is asked, waited for, and the truth is told.

`start` also makes a container start at boot and `stop` keeps it from that, as geard meant the words.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gear import boot, containers, files, groups, journal, sockets
from gear.errors import GearError
from gear.model import Layout, unit_name
from gear.network import unit_name as network_unit
from gear.systemd import Manager, booted

# gear stop reads no specification.
if TYPE_CHECKING:
    from gear.spec import Spec

# EXIT_CREDENTIALS (systemd.exec(5), "Process Exit Codes").
_NO_CREDENTIALS = 243

_TAIL = 10  # journal lines shown when a start fails


class StartError(GearError):
    """A container did not start."""


def start(
    manager: Manager, layout: Layout, names: Sequence[str], *, again: bool = False
) -> dict[str, GearError | None]:
    """Start (or with *again* restart) installed containers at once, and at every boot from now on.

    For one that is started on demand that means to listen on its ports.
    Returns for each name None, or the error with the unit's result, the helper's words and the last journal lines.
    """
    for name in names:
        if containers.switch_path(layout, name).exists():
            from gear import switching  # which nothing else here needs

            with files.locked(layout.lock):
                switching.finish(layout, name)
            manager.reload()
    outcome, specs = _specs(layout, names)
    masked = {name for name, spec in specs.items() if manager.file_state(spec.unit).startswith("masked")}
    for name in masked:
        outcome[name] = StartError(
            f"{name} is masked, so systemd will not start it.",
            hint=f"systemctl unmask {specs.pop(name).unit}",
        )
    unread = False
    for spec in specs.values():
        sockets.enable(layout, spec)
        shared = spec.network.shared
        unread |= boot.enable_with(layout, spec.unit, None if shared is None else unit_name(shared))
        # Somebody asks for it, so how often it was started or failed before does not count.
        manager.reset_failed(spec.unit)
        sockets.prepare(manager, layout, spec)
    if unread:
        manager.reload()
    # A start would only join the one that is under way between two tries, with the files as they were.
    waiting = [
        spec.unit for spec in specs.values() if manager.get(spec.unit, "SubState", "s") == "auto-restart"
    ]
    manager.stop(waiting)
    if again:
        # What is changed is read when it is started next, which is the business of those who connect.
        manager.stop([spec.unit for spec in specs.values() if spec.network.on_demand])
        manager.stop([unit for spec in specs.values() for unit in sockets.outdated(manager, layout, spec)])
    operation = manager.restart if again else manager.start
    results = operation([unit for spec in specs.values() for unit in sockets.starts_at_boot(spec)])
    results |= _once_more(manager, specs.values())
    for name, spec in specs.items():
        wrong = [results[unit] for unit in sockets.starts_at_boot(spec) if results[unit] != "done"]
        outcome[name] = None
        if wrong:
            closed = sockets.failed(manager, spec)
            outcome[name] = (
                sockets.why(manager, layout, spec, closed) if closed else why(manager, spec, wrong[0])
            )
    return {name: outcome[name] for name in names}


def _once_more(manager: Manager, specs: Iterable[Spec]) -> dict[str, str]:
    """Start those again whose sockets could not be opened though nobody else has their ports; returns jobs' results.

    A socket that PID 1 closes and opens again within a restart was seen not to get its port, on a busy machine.
    """
    free = []
    for spec in specs:
        closed = sockets.failed(manager, spec)
        if closed and sockets.taken(spec, closed) is None:
            free.append(spec)
            for unit in (*closed, spec.unit):
                manager.reset_failed(unit)
    return manager.start([unit for spec in free for unit in sockets.starts_at_boot(spec)])


def stop(manager: Manager, layout: Layout, names: Sequence[str]) -> dict[str, GearError | None]:
    """Stop installed containers at once, and keep them from starting at boot; returns errors as start() does.

    Nobody listens on their ports any more, also of one that is started on demand.
    Also for one that has crashed: it must not come back at boot either.
    """
    outcome: dict[str, GearError | None] = {}
    wanted: dict[str, str] = {}
    for name in names:
        # No specification is read: one that is damaged must not keep a container running.
        if containers.exists(layout, name):
            wanted[name] = containers.unit_of(layout, name)
        else:
            outcome[name] = containers.not_found(name)
    listening = {name: sockets.loaded(manager, name) for name in wanted}
    unread = False
    for name, unit in wanted.items():
        unread |= boot.disable(unit)
        sockets.disable(layout, name)
    if unread:
        manager.reload()
    for unit in wanted.values():
        if unit.endswith(".scope"):
            _kill_if_deaf(manager, unit)
    # Sockets first and together: one that still listens would start it again.
    results = manager.stop([unit for units in listening.values() for unit in units] + list(wanted.values()))
    for name, unit in wanted.items():
        settle(manager, unit)
        # A scope is gone with its last process, perhaps before it could be asked to stop.
        done = results[unit] == "done" or (unit.endswith(".scope") and _is_over(manager, unit))
        outcome[name] = (
            None if done else GearError(f"{name} could not be stopped: {results[unit].rstrip('.')}.")
        )
    return {name: outcome[name] for name in names}


def _kill_if_deaf(manager: Manager, unit: str) -> None:
    """End the payload of a scope at once if it has no handler for the stop signal, as ExecStop= does for a service."""
    scope = manager.properties(unit, "Scope")
    group, number = str(scope.get("ControlGroup") or ""), int(scope.get("KillSignal") or 15)
    pid = groups.payload(group) if group else None
    if pid is not None and not groups.can_hear(pid, number):
        os.kill(pid, signal.SIGKILL)


def _is_up(manager: Manager, unit: str) -> bool:
    return manager.get(unit, "ActiveState", "s") in ("active", "reloading")


def _is_over(manager: Manager, unit: str) -> bool:
    return manager.get(unit, "ActiveState", "s") in ("inactive", "failed")


def runs_with_earlier(layout: Layout, spec: Spec) -> bool:
    """Whether the payload runs with what was before the last change; without systemd as PID 1 nothing runs."""
    if not booted():
        return False
    with Manager() as manager:
        return containers.is_stale(spec, layout, manager.properties(spec.unit, "Service"))


def settle(manager: Manager, unit: str) -> None:
    """Leave a unit that was stopped on purpose inactive rather than failed, however its payload ended."""
    if manager.get(unit, "ActiveState", "s") == "failed":
        manager.reset_failed(unit)


def _specs(layout: Layout, names: Sequence[str]) -> tuple[dict[str, GearError | None], dict[str, Spec]]:
    outcome: dict[str, GearError | None] = {}
    specs: dict[str, Spec] = {}
    for name in names:
        try:
            specs[name] = containers.get(layout, name)
            if containers.run_of(layout, name) is not None:
                raise GearError(
                    f"{specs.pop(name).name} was run once and is not installed, so it can't be started.",
                    hint="gear install makes containers that are started and stopped.",
                )
        except GearError as error:
            outcome[name] = error
    return outcome, specs


def why(manager: Manager, spec: Spec, job: str, invocation: str | None = None) -> StartError:
    """Put together why the start of *spec* ended with the job result *job*.

    *invocation* is the hexadecimal id of the run whose lines of the journal tell it; the unit's own by default, which
    is another once PID 1 has started it again.
    """
    state = manager.properties(spec.unit)
    service = manager.properties(spec.unit, "Service")
    invocation = invocation or bytes(state.get("InvocationID") or b"").hex() or None
    said = str(service.get("StatusText") or "")
    result = str(service.get("Result") or "")
    down = [unit for unit in map(network_unit, spec.network.networks) if not _is_up(manager, unit)]
    if result == "start-limit-hit":
        reason = "it was started too often in a short time, and systemd gave up"
    elif result == "timeout":
        reason = "it was not ready within the start timeout"
        reason += f" ({said})" if said not in ("", "starting") else ""
    elif said not in ("", "starting"):
        reason = said
    elif down:
        # What it failed with itself is forgotten already, as systemd tries again.
        told = journal.last_words(down[0])
        reason = f"the unit {down[0]} of its network failed{f': {told}' if told else ''}"
    elif result == "oom-kill":
        reason = "it ran out of the memory it may use"
    elif result == "exit-code" and service.get("ExecMainStatus") == _NO_CREDENTIALS:
        reason = "systemd could not read or decrypt one of its secrets on this machine"
    elif result in ("exit-code", "signal", "core-dump"):
        reason = f"its process ended with status {service.get('ExecMainStatus', 0)}"
    elif spec.network.shared is not None and (job == "dependency" or "not found" in job):
        reason = (
            f"the container {spec.network.shared}, whose network it shares, is not there or did not start"
        )
    elif job == "dependency":
        reason = "a unit that it depends on failed"
    else:
        reason = f"systemd says {result if result not in ('', 'success') else job}"
    lines = journal.tail(spec.name, spec.logging.namespace, _TAIL, invocation)
    hint = f"The whole story: journalctl -u {down[0].removesuffix('.service') if down else spec.unit}"
    if "can't map the ids of" in said and spec.image.reference.startswith("host:"):
        hint = "--userns host needs no mapping; root of the container is then root of this machine."
    return StartError(
        f"{spec.name} did not start: {reason} (result {job if result in ('', 'success') else result}).",
        details=lines,
        hint=hint,
    )
