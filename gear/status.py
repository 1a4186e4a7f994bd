"""What there is to say of one container: what was asked for, and what has become of it."""

from __future__ import annotations

from typing import Any

from gear import containers, probed, sockets
from gear.model import Layout
from gear.spec import Spec
from gear.systemd import Manager


def state(manager: Manager, layout: Layout, name: str) -> dict[str, Any]:
    """What there is to say of a container: the members of `gear status --output json`, described in gear(1)."""
    spec = containers.get(layout, name)
    unit_id = containers.unit_of(layout, name)
    unit = manager.properties(unit_id)
    service = manager.properties(unit_id, "Service") if unit_id == spec.unit else {}
    return {
        "name": name,
        "unit": unit_id,
        "image": {"reference": spec.image.reference, "digest": spec.image.digest},
        "load_state": unit.get("LoadState", ""),
        "active_state": unit.get("ActiveState", ""),
        "sub_state": unit.get("SubState", ""),
        "paused": unit.get("FreezerState", "running") in ("frozen", "freezing"),
        "boot": manager.file_state((sockets.starts_at_boot(spec) if unit_id == spec.unit else [unit_id])[0]),
        "listening": sockets.state(manager, spec),
        "main_pid": service.get("MainPID", 0),
        "result": service.get("Result", ""),
        "exit_status": service.get("ExecMainStatus", 0),
        "status_text": service.get("StatusText", ""),
        "restarts": service.get("NRestarts", 0),
        "health": probed.health(layout, name, str(unit.get("ActiveState", ""))),
        "invocation": bytes(unit.get("InvocationID") or b"").hex(),
        "control_group": service.get("ControlGroup", ""),
        **connection(spec),
        # None: the host's own ids.
        "uid_range": {"base": spec.uid_base, "size": spec.id_count} if spec.own_ids else None,
        "restart_needed": containers.is_stale(spec, layout, service),
    }


def connection(spec: Spec) -> dict[str, Any]:
    """How a container is connected, in words: members of `gear status` and `gear list-units`."""
    addresses = [address for item in spec.network.interfaces for address in item.addresses()]
    return {
        "net": spec.network.words,
        "address": addresses[0] if addresses else None,
        "addresses": addresses,
        "ports": [str(port) for port in spec.network.ports],
        "on_demand": spec.network.on_demand,
        "idle_stop": spec.network.idle_stop,
        "limits": spec.network.limits.to_mapping(),
    }
