"""OCI's ordered list of device rules as systemd's DevicePolicy= and DeviceAllow=.

Pure.  OCI's list is that of the control groups of version 1: a rule for all devices sets what holds, later ones make
exceptions of it, of both kinds.  systemd knows one direction only: nothing but what is allowed, or everything.  So
exceptions from "everything", and from a range of devices, have no words there, and are errors here, not left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from gear.document import Node
from gear.errors import UsageError
from gear.records import dataclass

# What the helper puts into /dev of every container, in the order in which a unit names it.
STANDARD: tuple[dict[str, Any], ...] = (
    *({"allow": True, "type": "c", "major": 1, "minor": m, "access": "rw"} for m in (3, 5, 7, 8, 9)),
    {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rw"},
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rw"},
    {"allow": True, "type": "c", "major": 136, "access": "rw"},
)
NOTHING: dict[str, Any] = {"allow": False, "access": "rwm"}
# DevicePolicy=closed allows null, zero, full, random and urandom by itself.
_CLOSED = frozenset(("c", 1, minor) for minor in (3, 5, 7, 8, 9))
# Devices whose numbers are fixed (admin-guide/devices.txt), where a name says more.
_NAMES = {("c", 5, 0): "/dev/tty", ("c", 5, 2): "/dev/ptmx"}
_KINDS = {"c": "char", "b": "block"}
# The groups of /proc/devices that are the same everywhere.
GROUPS: dict[tuple[str, int], str] = {("c", 136): "pts"}
_MOST = (1 << 32) - 1


@dataclass(frozen=True)
class _Device:
    """Devices of a kind; None for every number."""

    kind: str
    major: int | None
    minor: int | None

    def covers(self, other: _Device) -> bool:
        return (
            self.kind == other.kind
            and self.major in (None, other.major)
            and self.minor in (None, other.minor)
        )

    def meets(self, other: _Device) -> bool:
        return (
            self.kind == other.kind
            and (None in (self.major, other.major) or self.major == other.major)
            and (None in (self.minor, other.minor) or self.minor == other.minor)
        )

    def __str__(self) -> str:
        return f"{self.kind} {'*' if self.major is None else self.major}:{'*' if self.minor is None else self.minor}"


def groups(text: str) -> dict[tuple[str, int], str]:
    """The names of device groups by kind and major number, from the text of /proc/devices."""
    found, kind = dict(GROUPS), ""
    for line in text.splitlines():
        words = line.split()
        if line.startswith(("Character", "Block")):
            kind = line[0].lower()
        elif kind and len(words) == 2 and words[0].isdecimal():
            # A major number may have several names, each of which systemd takes for all of it; some are paths.
            if found.get(key := (kind, int(words[0])), "/").startswith("/"):
                found[key] = words[1]
    return found


def settings(
    rules: Iterable[Node], names: Mapping[tuple[str, int], str] = GROUPS
) -> tuple[str, list[tuple[str, str]]]:
    """DevicePolicy= and DeviceAllow= (device, access); raises UsageError for what systemd has no words for.

    Nothing is allowed before the first rule.  *names* are groups() of this machine.
    """
    everything, allowed = False, dict[_Device, frozenset[str]]()
    for rule in rules:
        allow, devices, access = _read(rule)
        if devices is None:
            if access != frozenset("rwm"):
                devices = [_Device("c", None, None), _Device("b", None, None)]
            else:
                everything, allowed = allow, {}
                continue
        for device in devices:
            if everything and not allow:
                _no_words(f"everything but {device}")
            elif allow and not everything:
                allowed[device] = allowed.get(device, frozenset()) | access
            elif not allow:
                _take(allowed, device, access)
    if everything:
        return "auto", []
    return _written(allowed, names)


def _read(rule: Node) -> tuple[bool, list[_Device] | None, frozenset[str]]:
    """Whether a rule allows, which devices (None: all of them), and what may be done with them."""
    allow = rule.value.get("allow", False)
    if not isinstance(allow, bool):
        rule.fail("allow", "is not true or false")
    # v1 takes all access for none given.
    access = rule.text("access") or "rwm"
    if not set(access) <= set("rwm"):
        rule.fail("access", f"is {access[:20]!r}, not made of r, w and m")
    kind = rule.text("type") or "a"
    major, minor = _device_number(rule, "major"), _device_number(rule, "minor")
    if kind == "a":
        if (major, minor) == (None, None):
            return allow, None, frozenset(access)
        return allow, [_Device(each, major, minor) for each in "cb"], frozenset(access)
    # FIFOs, which OCI calls p, need no leave; u is another word for c.
    kind = {"u": "c"}.get(kind, kind)
    if kind not in _KINDS and kind != "p":
        rule.fail("type", f"is {kind[:20]!r}, which is no kind of device")
    return allow, [_Device(kind, major, minor)] if kind != "p" else [], frozenset(access)


def _device_number(rule: Node, name: str) -> int | None:
    value = rule.value.get(name)
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        rule.fail(name, "is not a device number")
    return value


def _take(allowed: dict[_Device, frozenset[str]], device: _Device, access: frozenset[str]) -> None:
    """Refuse *access* to *device* out of what is allowed."""
    for other in [other for other in allowed if device.meets(other) and allowed[other] & access]:
        if not device.covers(other):
            _no_words(f"{other} but {device}")
        allowed[other] -= access
        if not allowed[other]:
            del allowed[other]


def _no_words(what: str) -> NoReturn:
    raise UsageError(
        f"Device rules that allow {what} can't be enforced: systemd has no words for exceptions.",
        hint="Deny all devices first, then allow one by one.",
    )


def _written(
    allowed: dict[_Device, frozenset[str]], names: Mapping[tuple[str, int], str]
) -> tuple[str, list[tuple[str, str]]]:
    fixed = {(device.kind, device.major, device.minor): access for device, access in allowed.items()}
    closed = all(frozenset("rw") <= fixed.get(each, frozenset()) for each in _CLOSED)
    lines = []
    for device, access in allowed.items():
        if not (closed and (device.kind, device.major, device.minor) in _CLOSED):
            text = "".join(letter for letter in "rwm" if letter in access)
            lines.append((_name(device, names), text))
    return "closed" if closed else "strict", lines


def _name(device: _Device, names: Mapping[tuple[str, int], str]) -> str:
    kind = _KINDS[device.kind]
    if device.major is None:
        if device.minor is not None:
            _no_words(f"{device} of every major number")
        return f"{kind}-*"
    if device.minor is None:
        if (group := names.get((device.kind, device.major))) is None:
            raise UsageError(f"No device of this machine is {device}: /proc/devices has no such number.")
        return f"{kind}-{group}"
    fixed = _NAMES.get((device.kind, device.major, device.minor))
    return fixed or f"/dev/{kind}/{device.major}:{device.minor}"
