"""Whether what runs is what is installed: units as PID 1 has read them, and the user ids of payloads.

Not files (gear/container_check.py), and not networks in the kernel (gear/network_state.py).  What was changed and waits
for a restart is no fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gear import containers, files, uids
from gear.errors import GearError
from gear.findings import Finding
from gear.model import Layout, listener_of
from gear.spec import Spec
from gear.systemd import Manager, UnitState

# What gear's units are called, those of other installations of gear on this host as well.
_PATTERNS = ("ctr-*.service", "ctr-*.socket", "ctr-*.scope", "gear-network@*.service", "container*.slice",
             "container*.target")  # fmt: skip
_OVER = ("inactive", "failed")


def check(manager: Manager, layout: Layout) -> Iterator[Finding]:
    """The faults.  The caller holds the lock."""
    loaded = manager.list_units(_PATTERNS)
    for unit in loaded:
        yield from _unread(manager, layout, unit)
        yield from _ownerless(manager, layout, unit)
    active = {unit.name for unit in loaded if unit.active not in _OVER}
    for name in containers.names(layout):
        spec = containers.existing(layout, name)
        if spec is not None and spec.unit in active:
            yield from _user_ids(manager, layout, spec)


def _unread(manager: Manager, layout: Layout, unit: UnitState) -> Iterator[Finding]:
    """A unit of this installation whose file, or a drop-in of it, is not what PID 1 has read."""
    if (layout.units / unit.name).exists() and manager.get(unit.name, "NeedDaemonReload", "b"):
        what = "has changed since systemd read it, or a drop-in of it has"
        yield Finding(unit.name, what, mend=manager.reload, hint="systemctl daemon-reload")


def _ownerless(manager: Manager, layout: Layout, unit: UnitState) -> Iterator[Finding]:
    """A service of a container that is not there: it runs, or has failed and PID 1 remembers it."""
    name, _, kind = unit.name.removeprefix("ctr-").rpartition(".")
    if not unit.name.startswith("ctr-") or kind != "service" or listener_of(unit.name) is not None:
        return
    if (
        unit.active == "inactive"
        or containers.exists(layout, name)
        or not _is_ours(manager, layout, unit.name)
    ):
        return
    if unit.active == "failed":
        forget = partial(manager.reset_failed, unit.name)
        yield Finding(unit.name, "is remembered, and there is no such container", damage=False, mend=forget)
    else:
        yield Finding(unit.name, "runs, and there is no such container", hint=f"systemctl stop {unit.name}")


def _is_ours(manager: Manager, layout: Layout, unit: str) -> bool:
    """Whether the service *unit* starts a container of this installation."""
    return f"{layout.containers}/" in repr(manager.properties(unit, "Service").get("ExecStart"))


def _user_ids(manager: Manager, layout: Layout, spec: Spec) -> Iterator[Finding]:
    """The payload has ids that are taken in its name, be they those of an earlier specification."""
    pid = int(manager.get(spec.unit, "MainPID", "u", "org.freedesktop.systemd1.Service"))
    try:
        base, count = _mapped(Path(f"/proc/{pid}/uid_map")) if pid else (0, 0)
    except (GearError, ValueError):  # it has ended meanwhile
        return
    if not base:  # nothing runs, or it has the host's ids
        return
    for taken in uids.ranges(layout):
        if taken.overlaps(base, count) and taken.name != spec.name:
            yield Finding(
                spec.unit,
                f"runs with the user ids {base} to {base + count - 1}, which {taken.name} has",
                hint=f"gear restart {spec.name}",
            )
            return


def _mapped(path: Path) -> tuple[int, int]:
    """The first id of the host that a user namespace has, and how many from there on; raises ValueError."""
    rows = [[int(word) for word in line.split()] for line in (files.read_bytes(path) or b"").splitlines()]
    if not rows:
        raise ValueError("no ids")
    first = min(row[1] for row in rows)
    return first, max(row[1] + row[2] for row in rows) - first
