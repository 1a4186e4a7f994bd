"""Networks for unit tests, on a machine that has no routes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gear import definitions
from gear.definition import Definition, interface_name, make_subnet
from gear.model import Layout


def define(name: str = "default", *subnets: str, **members: Any) -> Definition:
    """A network with these subnets."""
    texts = subnets or ("10.89.0.0/24", "fd00:1::/64")
    return Definition(name, interface_name(name), tuple(make_subnet(text) for text in texts), **members)


def machine(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A machine with IPv6 and without routes, all below *directory*."""
    proc = directory / "proc"
    proc.mkdir()
    (proc / "if_inet6").touch()
    monkeypatch.setattr(definitions, "_PROC", proc)
    monkeypatch.setattr(definitions, "_MACHINE_ID", directory / "machine-id")
    (directory / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    return Layout(directory / "state", directory / "units", directory / "config")


def write(layout: Layout, definition: Definition) -> None:
    path = definitions.path(layout, definition.name)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(definition.to_mapping()))
