"""Throw-away Debian hosts with systemd as PID 1, to try gear on; gear itself does not need it."""

from .disks import build_disk
from .errors import CommandError, ToolError, UsageError
from .host import Host
from .images import build_image
from .launch import boot, find, hosts, sweep
from .places import Places
from .trees import build_tree

__all__ = [
    "CommandError",
    "Host",
    "Places",
    "ToolError",
    "UsageError",
    "boot",
    "build_disk",
    "build_image",
    "build_tree",
    "find",
    "hosts",
    "sweep",
]
