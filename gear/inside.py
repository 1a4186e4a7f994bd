"""A container that runs: which process it is, its control groups, and signalling, freezing and thawing it.

Not what is done inside it: looking (gear/top.py), copying (gear/copying.py).
"""

from __future__ import annotations

import fcntl
import os
from signal import pidfd_send_signal

from gear import containers, groups, notices
from gear.errors import GearError
from gear.files import explained
from gear.model import Layout
from gear.records import dataclass
from gear.systemd import Manager, UnitError


@dataclass(frozen=True)
class Running:
    """What PID 1 says of a container that runs."""

    name: str
    unit: str
    pid: int
    group: str  # the path of its control group
    frozen: bool


def running(manager: Manager, layout: Layout, name: str) -> Running:
    """The container *name*; raises GearError unless its payload runs."""
    if not containers.exists(layout, name):
        raise containers.not_found(name)
    unit = containers.unit_of(layout, name)
    active = str(manager.get(unit, "ActiveState", "s"))
    group = str(manager.own(unit, "ControlGroup", "s"))
    if not unit.endswith(".scope"):
        pid = int(manager.own(unit, "MainPID", "u"))
    else:  # which has no main process to systemd
        pid = groups.payload(group) or 0 if group else 0
    # While a service starts, its main process is the helper, which is not in the container yet.
    if active not in ("active", "reloading", "refreshing", "deactivating") or not pid:
        sub = active if active != "activating" else str(manager.get(unit, "SubState", "s"))
        raise not_running(name, sub)
    return Running(name, unit, pid, group, manager.is_frozen(unit))


def if_running(manager: Manager, layout: Layout, name: str) -> Running | None:
    """The container when it runs, None when it does not; raises GearError between the two."""
    try:
        return running(manager, layout, name)
    except GearError:
        if manager.get(containers.unit_of(layout, name), "ActiveState", "s") not in ("inactive", "failed"):
            raise
        return None


def claim(layout: Layout, name: str) -> int:
    """Keep *name*, which does not run, from being started, and from others who claim it, until the descriptor that
    this returns is closed.

    Not waited for, since two could wait for each other.
    """
    if containers.switch_path(layout, name).exists():
        raise GearError(
            f"A restore of {name} was interrupted, so its files are not what they should be.",
            hint="gear clean finishes it.",
        )
    with explained(f"lock {name}"):
        lock = os.open(layout.containers / name / "rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise GearError(
                f"{name} is being started, or somebody else copies its files.", hint="Try again in a moment."
            ) from None
    return lock


def not_running(name: str, state: str = "") -> GearError:
    """The error for a container that is installed and has no payload now."""
    if state == "auto-restart":
        return GearError(
            f"{name} is not running: it has ended, and is going to be started again.",
            hint=f"gear status {name}",
        )
    if state in ("start", "start-post", "start-pre", "condition", "reloading"):
        return GearError(f"{name} is not running yet: it is being started.", hint="Try again in a moment.")
    return GearError(f"{name} is not running.", hint=f"gear start {name}")


def is_gone(found: Running) -> bool:
    """Whether the payload has ended since it was found, so that what was opened by its pid may be another's."""
    return not groups.contains(found.pid, found.group)


def kill(manager: Manager, layout: Layout, name: str, signal: int) -> None:
    """Send *signal* to the payload of *name*."""
    found = running(manager, layout, name)
    if found.unit.endswith(".scope"):
        try:
            pidfd = os.pidfd_open(found.pid)
        except ProcessLookupError:
            raise not_running(name) from None
        try:
            if is_gone(found):  # the number may be another's by now
                raise not_running(name)
            _announce(name, signal)
            pidfd_send_signal(pidfd, signal)
        except ProcessLookupError:
            raise not_running(name) from None
        finally:
            os.close(pidfd)
    else:
        _announce(name, signal)
        manager.kill(found.unit, signal)


def _announce(name: str, signal: int) -> None:
    """Note the signal before it is sent, or what PID 1 says of its effect may come first."""
    notices.note("kill", CONTAINER_NAME=name, GEAR_SIGNAL=str(signal))


def pause(manager: Manager, layout: Layout, name: str) -> bool:
    """Freeze every process of *name*; False when it was frozen already."""
    found = running(manager, layout, name)
    if found.frozen:
        return False
    freeze(manager, found)
    notices.note("pause", CONTAINER_NAME=name)
    return True


def freeze(manager: Manager, found: Running) -> None:
    """Freeze every process of a container that runs; raises GearError."""
    try:
        manager.freeze(found.unit)
    except UnitError as error:
        raise GearError(
            f"{found.name} can't be paused: {_words(error)}.",
            hint="Freezing takes cgroup v2: boot with systemd.unified_cgroup_hierarchy=1.",
        ) from error


def resume(manager: Manager, layout: Layout, name: str) -> bool:
    """Let a frozen container run again; False when it was not frozen."""
    found = running(manager, layout, name)
    if not found.frozen:
        return False
    manager.thaw(found.unit)
    notices.note("resume", CONTAINER_NAME=name)
    return True


def _words(error: UnitError) -> str:
    """systemd's own words."""
    return error.message.partition(": ")[2].rstrip(".") or error.message
