"""What containers that run get at once: changes of their networks and links, carried out by the helper.

What they are to have is published before (gear/install.py), so that the next start makes the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from gear import containers, files, inside, process, units
from gear.errors import GearError
from gear.model import Layout
from gear.systemd import Manager


def payload(manager: Manager, layout: Layout, name: str) -> int | None:
    """The pid of the payload of *name*; None when it does not run."""
    try:
        return inside.running(manager, layout, name).pid
    except GearError:
        return None


def is_stale(manager: Manager, layout: Layout, name: str) -> bool:
    """Whether the payload of *name* runs with earlier files than there are."""
    spec = containers.get(layout, name)
    return containers.is_stale(spec, layout, manager.properties(spec.unit, "Service"))


def mark(layout: Layout, name: str) -> None:
    """Note that the payload of *name* has what the files say now."""
    files.write_atomic(containers.adjusted_path(layout, name), b"", 0o600)


def network_member(layout: Layout, name: str) -> dict[str, Any]:
    """`network` of the container's start.json; empty for one on no network."""
    document = files.read_json(layout.containers / name / "start.json")
    found = document.get("network") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def adjust(layout: Layout, name: str, pid: int, before: dict[str, Any]) -> None:
    """Change the network of the payload *pid* from *before* to what start.json says; raises GearError."""
    # With many ports it is longer than an argument may be (MAX_ARG_STRLEN).
    _helper(layout, "adjust", name, pid, json.dumps(before).encode())


def make_links(layout: Layout, name: str, pid: int) -> None:
    """Make the links that start.json names in the network of the payload *pid*, and no others; raises GearError."""
    _helper(layout, "link", name, pid)


def _helper(layout: Layout, verb: str, name: str, pid: int, data: bytes = b"") -> None:
    program, directory = f"{units.helper_directory(layout)}/network", str(layout.containers / name)
    process.call([*units.INTERPRETER, program, verb, directory, str(pid)], data)


def follow(manager: Manager, layout: Layout, moved: str) -> list[str]:
    """Make the links of running containers that lead to *moved* anew, since it may have another address; returns their
    names.  Raises GearError."""
    found = []
    for name in _linked_to(layout, moved):
        pid = payload(manager, layout, name)
        if pid is not None:
            make_links(layout, name, pid)
            found.append(name)
    return found


def _linked_to(layout: Layout, other: str) -> Iterable[str]:
    for name in containers.names(layout):
        spec = containers.existing(layout, name)
        if spec is not None and name != other and other in [link.host for link in spec.network.links]:
            yield name
