"""What a network is laid on: the interface of the host that a macvlan hangs on, the other hosts that a VXLAN leads to.

Pure: the members parent, mode, vni, peers, local and port of network.json, and which of them belong together.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

from gear import inet, members
from gear.errors import UsageError
from gear.patterns import pattern
from gear.records import dataclass

BRIDGE, MACVLAN, VXLAN = DRIVERS = ("bridge", "macvlan", "vxlan")
# What macvlan interfaces of one parent are to each other (ip-link(8)).
MODES = ("bridge", "private", "vepa", "passthru")
# Where a VXLAN listens, and what it puts before each packet: outer IP, UDP, its own header, and the inner Ethernet's
# (RFC 7348).
PORT = 4789
OVERHEAD = {4: 50, 6: 70}
_LARGEST_VNI = (1 << 24) - 1
_INTERFACE = pattern(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)


@dataclass(frozen=True)
class Underlay:
    """*parent* is an interface of the host, *mode* a macvlan's; the rest is a VXLAN's: its number, the addresses of the
    other hosts, this host's own if it is to be a certain one, and the UDP port on all of them."""

    parent: str | None = None
    mode: str | None = None
    vni: int | None = None
    peers: tuple[str, ...] = ()
    local: str | None = None
    port: int | None = None

    @property
    def version(self) -> int:
        """Of the Internet protocol between the hosts: 4 or 6."""
        ends = self.peers or (() if self.local is None else (self.local,))
        return 6 if any(":" in end for end in ends) else 4

    def to_mapping(self) -> dict[str, Any]:
        """Its members of network.json."""
        found: dict[str, Any] = {"parent": self.parent, "vni": self.vni, "peers": list(self.peers)}
        if self.mode is not None:
            found["mode"] = self.mode
        if self.port is not None:
            found |= {"local": self.local, "port": self.port}
        return found

    @classmethod
    def taken_from(cls, values: dict[str, Any]) -> Underlay:
        """Of what READERS have read; its members are taken out of *values*."""
        return cls(**{name: values.pop(name) for name in READERS if name in values})


def interface_name(text: str) -> str:
    """*text* if an interface can be called so; raises UsageError."""
    if not _INTERFACE.fullmatch(text) or text in (".", ".."):
        raise UsageError(f"{text[:40]!r} can't name an interface.")
    return text


def parent_name(text: str) -> str:
    """*text* if it may be a parent: no loopback, no bridge of gear's own networks; raises UsageError."""
    if interface_name(text) == "lo" or text.startswith("gear-"):
        raise UsageError(f"{text} can't be the parent of a network: it does not lead out of this host.")
    return text


def address(text: str) -> str:
    """The address of a host at one end of a VXLAN; raises UsageError."""
    found = ip_address(inet.ip_address(text))
    if found.is_multicast or found.is_loopback or found.is_unspecified or found.is_link_local:
        raise UsageError(
            f"{found} can't be an end of a VXLAN: it is no address of one host.",
            hint="Give the address by which the other host is reached.",
        )
    return str(found)


def vni(value: int) -> int:
    """The number of a VXLAN; raises UsageError."""
    if not 1 <= value <= _LARGEST_VNI:
        raise UsageError(f"{value} can't be the number of a VXLAN.", hint=f"Give 1 to {_LARGEST_VNI}.")
    return value


def checked(driver: str, underlay: Underlay) -> Underlay:
    """*underlay* if it is what a network of *driver* has; raises UsageError."""
    belong = {BRIDGE: (), MACVLAN: ("parent", "mode"), VXLAN: ("parent", "vni", "peers", "local", "port")}
    for name in READERS:
        if getattr(underlay, name) not in (None, ()) and name not in belong[driver]:
            option = "peer" if name == "peers" else name
            raise UsageError(f"A network of the driver {driver} has no --{option}.")
    if driver == MACVLAN and (underlay.parent is None or underlay.mode is None):
        raise UsageError(
            "A macvlan network needs an interface of this host to hang on.", hint="For example --parent eth0"
        )
    if driver == VXLAN:
        _require_ends(underlay)
    return underlay


def _require_ends(underlay: Underlay) -> None:
    if underlay.vni is None or underlay.port is None:
        raise UsageError(
            "A vxlan network needs a number, the same on each host.", hint="For example --vni 4711"
        )
    ends = [*underlay.peers, *([] if underlay.local is None else [underlay.local])]
    if len({":" in end for end in ends}) > 1:
        raise UsageError("The ends of a VXLAN have addresses of IPv4, or of IPv6, and not of both.")
    if twice := next((end for end in ends if ends.count(end) > 1), None):
        raise UsageError(f"{twice} can't be two ends of one VXLAN.")


def _one_of(value: Any, words: tuple[str, ...], what: str) -> str:
    return inet.one_of(members.text(value), words, what)


READERS: dict[str, members.Reader] = {
    "parent": members.optional(lambda value: parent_name(members.text(value))),
    "mode": lambda value: _one_of(value, MODES, "mode of a macvlan"),
    "vni": members.optional(lambda value: vni(members.integer(value))),
    "peers": lambda value: tuple(address(members.text(item)) for item in members.array(value)),
    "local": members.optional(lambda value: address(members.text(value))),
    "port": lambda value: inet.port_number(members.integer(value)),
}
