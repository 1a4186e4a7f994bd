"""The sockets on which PID 1 listens for containers: starting, stopping and finding them.

What their units say is in gear/activation.py.  A container that is started on demand is one whose sockets are started.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gear import activation, boot, files
from gear.errors import GearError
from gear.model import Layout, listener_of, listeners
from gear.systemd import Manager

# `gear stop` reads no specification.
if TYPE_CHECKING:
    from gear.spec import Spec

_GONE = ("inactive", "failed")
_SAID = 4  # lines of the journal about a socket that could not be opened


def unit_files(layout: Layout, name: str) -> list[Path]:
    """The files of such units that there are of the container *name*, wanted or not."""
    with files.explained(f"read {layout.units}"):
        try:
            entries = os.listdir(layout.units)
        except FileNotFoundError:
            return []
    # All other containers have their units here, too: a path of each would be most of the work of an install.
    own = (entry for entry in entries if entry.startswith(f"ctr-{name}") and listener_of(entry) == name)
    return [layout.units / entry for entry in sorted(own)]


def loaded(manager: Manager, name: str) -> list[str]:
    """Those units of the container *name* that are not inactive: sockets, then proxies."""
    found = manager.list_units(listeners(name))
    wanted = [unit.name for unit in found if unit.active not in _GONE]
    return sorted(wanted, key=lambda unit: (unit.endswith(".service"), unit))


def starts_at_boot(spec: Spec) -> list[str]:
    """The units that `gear start` starts, now and at every boot."""
    return activation.sockets(spec) if spec.network.on_demand else [spec.unit]


def enable(layout: Layout, spec: Spec) -> None:
    """Make *spec* start at boot, or listen from then on."""
    wanted = starts_at_boot(spec)
    for unit in {spec.unit, *(path.name for path in unit_files(layout, spec.name))} - set(wanted):
        boot.disable(unit)
    for unit in wanted:
        boot.enable(layout, unit)


def disable(layout: Layout, name: str) -> None:
    """Keep PID 1 from listening for *name* at boot."""
    for path in unit_files(layout, name):
        boot.disable(path.name)


def remove_files(layout: Layout, name: str, keep: Collection[Path] = ()) -> None:
    """Remove the files of such units of *name* that are not in *keep*; what is loaded stays until it is stopped."""
    for path in unit_files(layout, name):
        if path not in keep:
            boot.disable(path.name)
            files.remove_durably(path)


def prepare(manager: Manager, layout: Layout, spec: Spec) -> None:
    """Forget failures, and close sockets that are not as the files have them; those of a payload that runs are closed
    by its restart."""
    for unit in manager.list_units(listeners(spec.name)):
        if unit.active == "failed":
            manager.reset_failed(unit.name)
    if manager.get(spec.unit, "ActiveState", "s") not in _GONE:
        return
    manager.stop(outdated(manager, layout, spec))


def outdated(manager: Manager, layout: Layout, spec: Spec) -> list[str]:
    """The units of *spec* that are as an earlier version of their files had them, or have none any more."""
    return [unit for unit in loaded(manager, spec.name) if _is_outdated(manager, layout, unit)]


def _is_outdated(manager: Manager, layout: Layout, unit: str) -> bool:
    began = float(manager.get(unit, "ActiveEnterTimestamp", "t")) / 1e6
    try:
        return (layout.units / unit).stat().st_mtime > began
    except FileNotFoundError:
        return True


def state(manager: Manager, spec: Spec) -> str:
    """How PID 1 listens for *spec*: listening, failed, off; empty for a container without sockets."""
    units = activation.sockets(spec)
    states = {str(manager.get(unit, "ActiveState", "s")) for unit in units}
    return (
        ""
        if not units
        else "failed"
        if "failed" in states
        else "listening"
        if states == {"active"}
        else "off"
    )


def failed(manager: Manager, spec: Spec) -> list[str]:
    """Those sockets of *spec* that could not be opened, or were closed because of failures."""
    return [unit for unit in activation.sockets(spec) if manager.get(unit, "ActiveState", "s") == "failed"]


def taken(spec: Spec, units: Sequence[str]) -> dict[str, Any] | None:
    """A port of the sockets *units* of *spec* that somebody else has, as start.json has ports; None if all are free."""
    from gear.helper import ports  # the same words as the start helper's

    for port in spec.network.ports:
        if activation.socket_of(spec, port) in units:
            asked = {"address": port.address, "port": port.external, "protocol": port.protocol}
            if ports.is_taken(asked):
                return asked
    return None


def why(manager: Manager, layout: Layout, spec: Spec, units: Sequence[str]) -> GearError:
    """The error for sockets *units* of *spec* that could not be opened: who has the port, or what PID 1 says."""
    from gear import journal
    from gear.helper import ports

    hint = f"The whole story: journalctl -u {' -u '.join(units)}"
    if (asked := taken(spec, units)) is not None:
        owner = ports.owner_of(asked, spec.name, str(layout.containers))
        return GearError(
            f"{spec.name} can't publish port {ports.shown(asked)}: it is taken by {owner}.", hint=hint
        )
    result = ", ".join(f"{unit}: {manager.get(unit, 'Result', 's', _SOCKET)}" for unit in units)
    return GearError(
        f"{spec.name} can't publish its ports: systemd does not listen ({result}).",
        details=[line for unit in units for line in journal.of_systemd(unit, _SAID)],
        hint=hint,
    )


_SOCKET = "org.freedesktop.systemd1.Socket"
