"""The disks of virtual machines; not there yet."""

from __future__ import annotations

from pathlib import Path

from .errors import ToolError
from .places import Places


def build_disk(release: str, *, places: Places | None = None) -> Path:
    raise ToolError("virtual machines are not there yet")
