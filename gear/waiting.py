"""Waiting until containers run, are healthy, or have ended.

PID 1 is asked again and again: its signals tell of units, and not of what the prober finds.
"""

from __future__ import annotations

import time

from gear import containers, probed
from gear.errors import GearError, UsageError
from gear.model import Layout
from gear.records import dataclass
from gear.systemd import Manager

_PAUSE_S = 0.05
# As timeout(1) says it.
TIMED_OUT = 124
_KILLED = (2, 3)  # CLD_KILLED, CLD_DUMPED


class WaitError(GearError):
    """What was waited for did not come."""


@dataclass(frozen=True)
class Seen:
    """A unit at one moment."""

    active: str
    sub: str
    invocation: str


def until(manager: Manager, layout: Layout, name: str, condition: str, deadline: float | None) -> int:
    """Wait until *name* is `running`, `healthy`, `stopped`, or with `exit` until its payload has ended.

    *deadline* is one of time.monotonic(), or None.  Returns for `exit` how the payload ended, as a shell has it, else
    0.  Raises NotFoundError, UsageError for `healthy` without a check, and WaitError.
    """
    containers.get(layout, name)
    if condition == "healthy" and not probed.has_check(layout, name):
        raise UsageError(
            f"{name} has no health check, so it never gets healthy.", hint=f"gear wait --running {name}"
        )
    unit = containers.unit_of(layout, name)
    first = _seen(manager, unit)
    while True:
        now = _seen(manager, unit)
        if _reached(layout, name, condition, first, now):
            return _status(manager, unit) if condition == "exit" else 0
        if now.active == "failed" and condition in ("running", "healthy"):
            result = manager.get(unit, "Result", "s", "org.freedesktop.systemd1.Service")
            raise WaitError(f"{name} has failed (result {result}).", hint=f"gear status {name}")
        if deadline is not None and time.monotonic() >= deadline:
            error = WaitError(f"{name} is not {_WORDS[condition]} after the time it was given.")
            error.exit_status = TIMED_OUT
            raise error
        time.sleep(_PAUSE_S)


_WORDS = {"running": "running", "healthy": "healthy", "stopped": "stopped", "exit": "at its end"}


def _seen(manager: Manager, unit: str) -> Seen:
    found = manager.properties(unit)
    invocation = bytes(found.get("InvocationID") or b"").hex()
    return Seen(str(found.get("ActiveState")), str(found.get("SubState")), invocation)


def _reached(layout: Layout, name: str, condition: str, first: Seen, now: Seen) -> bool:
    if condition == "stopped":
        return now.active in ("inactive", "failed")
    if condition == "exit":
        over = now.active in ("inactive", "failed") or now.sub.startswith("auto-restart")
        return over or now.invocation != first.invocation
    if now.active not in ("active", "reloading", "refreshing"):
        return False
    if condition == "running":
        return True
    found = probed.health(layout, name, now.active)
    return found is not None and found["status"] == "healthy"


def _status(manager: Manager, unit: str) -> int:
    if not unit.endswith(".service"):
        return 0
    service = manager.properties(unit, "Service")
    status = int(service.get("ExecMainStatus") or 0)
    return 128 + status if service.get("ExecMainCode") in _KILLED else status
