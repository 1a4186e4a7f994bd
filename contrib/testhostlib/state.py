"""What is on disk about one host: request.json, what was asked for, and state.json, what has become of it.

The request is written once, when the name is claimed.  The state is written by whoever is in charge: first
the process that claims the name, then the host's supervisor.  Both are replaced whole, so a reader sees no
half.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import Process


@dataclass(frozen=True)
class Request:
    name: str
    kind: str  # 'nested' or 'vm'
    release: str
    source: str  # the tree or the disk directory, relative to the cache
    machine_id: str
    owner: Process | None = None  # the host ends with it; None: only by 'stop'
    binds: tuple[tuple[str, str], ...] = ()
    memory: int = 0  # MiB, of a virtual machine
    storage: str | None = None  # where its changes are kept when they outlive it
    logged: str | None = None  # the image of a second disk of a virtual machine, whose writes are logged


@dataclass(frozen=True)
class State:
    phase: str  # 'booting', 'running', 'off'
    boots: int = 0
    keeper: Process | None = None
    supervisor: Process | None = None
    leader: Process | None = None  # PID 1 of a nested host, qemu of a virtual machine
    cgroups: tuple[str, ...] = ()
    port: int | None = None  # of ssh, on 127.0.0.1


def write(path: Path, value: Request | State) -> None:
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(dataclasses.asdict(value), indent=1) + "\n")
    os.rename(staging, path)


def save_request(directory: Path, request: Request) -> None:
    write(directory / "request.json", request)


def save_state(directory: Path, state: State) -> None:
    write(directory / "state.json", state)


def load_request(directory: Path) -> Request | None:
    """None when there is none, as in a directory that is being made or removed."""
    data = _read(directory / "request.json")
    if data is None:
        return None
    data["owner"] = _process(data["owner"])
    data["binds"] = tuple((source, target) for source, target in data["binds"])
    # A host of another version of this program may say more.
    known = {field.name for field in dataclasses.fields(Request)}
    return Request(**{name: value for name, value in data.items() if name in known})


def load_state(directory: Path) -> State | None:
    data = _read(directory / "state.json")
    if data is None:
        return None
    for key in ("keeper", "supervisor", "leader"):
        data[key] = _process(data[key])
    data["cgroups"] = tuple(data["cgroups"])
    return State(**data)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    assert isinstance(data, dict)
    return data


def _process(data: dict[str, int] | None) -> Process | None:
    return None if data is None else Process(data["pid"], data["start"])
