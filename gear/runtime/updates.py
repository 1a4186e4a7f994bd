"""`update`: the limits that its options and its file ask for, in the form of `linux.resources`."""

from __future__ import annotations

from gear.helper.failure import Failure
from gear.runtime import shapes
from gear.runtime.arguments import Option, Parsed
from gear.runtime.document import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# option -> (object, member), both of linux.resources
_PLACES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "cpu-share": ("cpu", "shares"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-period": ("cpu", "period"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-idle": ("cpu", "idle"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
}
_TEXTS = ("cpuset-cpus", "cpuset-mems")
_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}
OPTIONS = (
    Option("resources,r", "FILE", "linux.resources as JSON, - for standard input; no other option then"),
    *(
        Option(name, "LIST" if name in _TEXTS else "N", f"linux.resources.{place[0]}.{place[1]}")
        for name, place in _PLACES.items()
    ),
)


def resources(options: Parsed) -> dict[str, Any]:
    """What `update` was asked for; raises Failure when that is nothing."""
    if path := options.get("resources"):
        try:
            if path == "-":
                import sys

                text = sys.stdin.read()
            else:
                with open(path, encoding="utf-8") as file:
                    text = file.read()
        except (OSError, ValueError) as error:
            raise Failure(f"can't read {path}: {error}") from error
        wanted = loads(text, path)
        shapes.check(wanted, shapes.RESOURCES, path)
        return wanted
    wanted = {}
    for name, (holder, member) in _PLACES.items():
        text = options.get(name)
        if text:
            value = text if name in _TEXTS else number(name, text)
            wanted.setdefault(holder, {})[member] = value
    if not wanted:
        raise Failure("update needs --resources FILE or a limit", 2)
    return wanted


def number(name: str, text: str) -> int:
    """A whole number; memory can have a unit."""
    shift = _UNITS.get(text[-1:].lower(), 0) if name.startswith("memory") else 0
    digits = text[:-1] if shift else text
    if not digits.removeprefix("-").isdigit() or not digits.isascii():
        raise Failure(f"--{name} takes a number, not {text}", 2)
    return int(digits) << shift
