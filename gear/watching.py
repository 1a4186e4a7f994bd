"""Looking at what containers use again and again: which of them run, one reading of each, and what changed between two.

PID 1 is asked once for each look, and once for a container that is new and not in the group where it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gear import containers, groups, probed, usage
from gear.errors import GearError
from gear.journaling import APP_LABEL
from gear.model import Layout, unit_name
from gear.records import dataclass
from gear.systemd import Manager, UnitError
from gear.usage import RESOURCES, Usage

_RUNNING = ("active", "reloading", "refreshing", "deactivating")


@dataclass
class _Known:
    """What does not change while a container runs."""

    unit: str
    image: str
    app: str
    usual: str  # its control group, unless a drop-in of the administrator's says otherwise
    group: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Look:
    """One container at one moment; no usage: it does not run."""

    name: str
    unit: str
    state: str  # systemd's word
    image: str
    app: str
    usage: Usage | None
    healthy: bool | None = None  # None without a health check, and for one that does not run


class Watch:
    """The containers *names*, or all there are at each moment; raises NotFoundError for a name that is none."""

    def __init__(self, manager: Manager, layout: Layout, names: Sequence[str] = ()) -> None:
        self._manager = manager
        self._layout = layout
        self._names = tuple(dict.fromkeys(names))
        self._known: dict[str, _Known] = {}
        for name in self._names:
            if not containers.exists(layout, name):
                raise containers.not_found(name)

    def look(self) -> list[Look]:
        """What each uses now, those included that do not run."""
        units = self._manager.list_units(["ctr-*.service", "ctr-*.scope"])
        states = {unit.name: unit.active for unit in units}
        names = self._names or containers.names(self._layout)
        self._known = {name: self._known.get(name) or self._acquainted(name) for name in names}
        return [self._one(name, known, states) for name, known in self._known.items()]

    def _acquainted(self, name: str) -> _Known:
        spec = containers.existing(self._layout, name)
        image = spec.image.reference if spec is not None else ""
        app = spec.labels.get(APP_LABEL, "") if spec is not None else ""
        try:
            unit = containers.unit_of(self._layout, name)
        except GearError:  # of a damaged run.json
            unit = unit_name(name)
        slice_ = spec.slice if spec is not None else "container.slice"
        return _Known(unit, image, app, f"{groups.slice_path(slice_)}/{unit}")

    def _one(self, name: str, known: _Known, states: dict[str, str]) -> Look:
        state = states.get(known.unit, "inactive")
        found = None
        if state in _RUNNING:
            if known.group is None:
                known.group = known.usual if usage.is_there(known.usual) else self._group(known.unit)
            if known.group is not None:
                known.pid = usage.payload(known.group, known.pid)
                found = usage.read(known.group, known.pid)
        if found is None:
            known.group = known.pid = None
        healthy = None
        if found is not None and (about := probed.health(self._layout, name, state, listed=True)):
            healthy = about["status"] == "healthy"
        return Look(name, known.unit, state, known.image, known.app, found, healthy)

    def _group(self, unit: str) -> str | None:
        """The control group as PID 1 knows it; None when the unit has just ended."""
        interface = "Scope" if unit.endswith(".scope") else "Service"
        try:
            group = self._manager.get(unit, "ControlGroup", "s", f"org.freedesktop.systemd1.{interface}")
        except UnitError:
            return None
        return str(group) or None


def document(now: Look, before: Look | None, at: float) -> dict[str, Any]:
    """The members of `gear stats --output json`, described in gear(1): rates are what changed since *before*.

    *at* is the time of day, in seconds since the epoch.
    """
    new = now.usage or Usage(0.0)
    old = before.usage if before is not None else None
    # A counter that went back belongs to another start of the container.
    if old is None or (old.cpu_seconds or 0) > (new.cpu_seconds or 0):
        old = None
    rate = _rates(new, old)
    cpu = rate("cpu_seconds")
    return {
        "time": at,
        "name": now.name,
        "unit": now.unit,
        "running": now.usage is not None,
        "interval": None if old is None else new.at - old.at,
        "cpu": {
            "percent": None if cpu is None else cpu * 100,
            "quota": new.cpu_quota,
            "quota_percent": None if cpu is None or not new.cpu_quota else cpu / new.cpu_quota * 100,
            "seconds": new.cpu_seconds,
            "throttled_periods": new.throttled_periods,
            "throttled_seconds": new.throttled_seconds,
        },
        "memory": {
            "current": new.memory,
            "limit": new.memory_limit,
            "peak": new.memory_peak,
            "swap": new.swap,
            "swap_limit": new.swap_limit,
            "oom_kills": new.oom_kills,
        },
        "io": {
            "read_bytes": new.read_bytes,
            "written_bytes": new.written_bytes,
            "read_rate": rate("read_bytes"),
            "write_rate": rate("written_bytes"),
            "reads_rate": rate("reads"),
            "writes_rate": rate("writes"),
        },
        "net": {
            "received_bytes": new.received_bytes,
            "sent_bytes": new.sent_bytes,
            "receive_rate": rate("received_bytes"),
            "send_rate": rate("sent_bytes"),
        },
        "pids": {"current": new.pids, "limit": new.pids_limit},
        "pressure": {
            resource: {
                kind: new.pressure[resource, kind].percent if (resource, kind) in new.pressure else None
                for kind in ("some", "full")
            }
            for resource in RESOURCES
        },
    }


def _rates(new: Usage, old: Usage | None) -> Callable[[str], float | None]:
    """What a counter gained in a second; None where it is not counted, or there was no earlier reading."""

    def rate(counter: str) -> float | None:
        now, then = getattr(new, counter), getattr(old, counter, None)
        if old is None or now is None or then is None or now < then or new.at <= old.at:
            return None
        return float(now - then) / (new.at - old.at)

    return rate
