"""Throw-away Debian hosts with systemd as PID 1, to try gear on; gear itself does not need it."""

from .launch import boot, find, hosts, sweep
from .errors import CommandError, ToolError, UsageError
from .host import Host
from .places import Places
from .trees import build_tree

__all__ = [
    "CommandError",
    "Host",
    "Places",
    "ToolError",
    "UsageError",
    "boot",
    "build_tree",
    "find",
    "hosts",
    "sweep",
]
