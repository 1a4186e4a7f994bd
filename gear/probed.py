"""What the prober of a container has found, as it keeps it in health.json (gear/helper/health.py).

What is in it is the container's word where it is output of probes: it is cleaned where it is shown (gear/command.py).
"""

from __future__ import annotations

import os
from typing import Any

from gear import files
from gear.errors import GearError
from gear.model import Layout

_STATES = ("starting", "healthy", "unhealthy")


def has_check(layout: Layout, name: str) -> bool:
    """Whether the container *name*, as it is installed now, has a health check."""
    start = _document(layout, name, "start.json")
    return isinstance(start.get("health"), dict) and "check" in start["health"]


def health(layout: Layout, name: str, active: str, *, listed: bool = False) -> dict[str, Any] | None:
    """The member `health` of `gear status`, described in gear(1), for a unit in the state *active*; None without check.

    *listed* is for many at once: one that has never been started counts as one without.
    """
    # As text: a path takes as long as all else here.
    if listed and not os.access(f"{layout.container(name)}/health.json", os.F_OK):
        return None
    if not has_check(layout, name):
        return None
    found = _document(layout, name, "health.json")
    status = found.get("status")
    over = active == "inactive" or (active == "failed" and status != "unhealthy")
    if over or status not in _STATES:
        return {"status": "stopped" if over else "starting", "failing": 0, "since": None, "last": None}
    return {
        "status": status,
        "failing": found.get("failing", 0),
        "since": found.get("since"),
        "last": found.get("last"),
    }


def _document(layout: Layout, name: str, file: str) -> dict[str, Any]:
    try:
        document = files.read_json(layout.containers / name / file)
    except GearError:
        return {}
    return document if isinstance(document, dict) else {}
