"""What there is to say of one container: what was asked for, and what has become of it."""

from __future__ import annotations

from typing import Any

from gear import containers, probed, sockets
from gear.model import Layout
from gear.outline import connection
from gear.records import dataclass
from gear.spec import Spec
from gear.systemd import Manager


@dataclass(frozen=True)
class Seen:
    """What PID 1 says of the unit of a container: properties of all its interfaces, and the state of its file."""

    unit: str
    properties: dict[str, Any]
    file_state: str


def look(manager: Manager, layout: Layout, name: str) -> Seen:
    """Ask PID 1 about the container *name*."""
    unit = containers.unit_of(layout, name)
    return Seen(unit, *manager.look(unit))


def state(manager: Manager, layout: Layout, spec: Spec, seen: Seen) -> dict[str, Any]:
    """What there is to say of a container: the members of `gear status --output json`, described in gear(1)."""
    name, unit_id, unit = spec.name, seen.unit, seen.properties
    installed = unit_id == spec.unit
    service = unit if installed else {}
    starts = sockets.starts_at_boot(spec)[0] if installed else unit_id
    return {
        "name": name,
        "unit": unit_id,
        "image": {"reference": spec.image.reference, "digest": spec.image.digest},
        "load_state": unit.get("LoadState", ""),
        "active_state": unit.get("ActiveState", ""),
        "sub_state": unit.get("SubState", ""),
        "paused": unit.get("FreezerState", "running") in ("frozen", "freezing"),
        "boot": seen.file_state if starts == unit_id else manager.file_state(starts),
        "listening": sockets.state(manager, spec),
        "main_pid": service.get("MainPID", 0),
        "result": service.get("Result", ""),
        "exit_status": service.get("ExecMainStatus", 0),
        "status_text": service.get("StatusText", ""),
        "restarts": service.get("NRestarts", 0),
        "health": probed.health(layout, name, str(unit.get("ActiveState", ""))),
        "invocation": bytes(unit.get("InvocationID") or b"").hex(),
        "control_group": service.get("ControlGroup", ""),
        **connection(spec.network),
        # None: the host's own ids.
        "uid_range": {"base": spec.uid_base, "size": spec.id_count} if spec.own_ids else None,
        "restart_needed": containers.is_stale(spec, layout, service),
    }
