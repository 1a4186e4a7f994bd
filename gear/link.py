"""Links: what a container finds at an address and port of its own, the words for it, and the grammar of the option.

Where a link leads is found when it is made; see gear/helper/links.py.
"""

from __future__ import annotations

import re
from typing import Any

from gear import members
from gear.errors import UsageError
from gear.inet import PROTOCOLS, ip_address, one_of, port_number
from gear.patterns import pattern
from gear.records import dataclass

_LINK = pattern(
    r"(?:(?P<address>\[[0-9A-Fa-f:.]+\]|[0-9.]+):(?=[0-9]+:))?(?P<port>[0-9]{1,5}):"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(?P<target>[0-9]{1,5})(?:/(?P<protocol>[A-Za-z]+))?",
    re.ASCII,
)
# Names of hosts, which those of containers are, too.
_HOST = pattern(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)


@dataclass(frozen=True)
class Link:
    """What the container finds at *address* and *port* of its own: *target* of *host*, which is an address, the host
    itself, another container, or a name that is resolved when the link is made.  An empty *protocol* means each."""

    address: str
    port: int
    host: str
    target: int
    protocol: str = ""

    def overlaps(self, other: Link) -> bool:
        """Whether one connection could mean both."""
        same = (self.address, self.port) == (other.address, other.port)
        return same and (not self.protocol or not other.protocol or self.protocol == other.protocol)

    def __str__(self) -> str:
        local, host = (f"[{name}]" if ":" in name else name for name in (self.address, self.host))
        protocol = f"/{self.protocol}" if self.protocol else ""
        return f"{local}:{self.port}:{host}:{self.target}{protocol}"


def read_link(value: Any) -> Link:
    """One of the member `links`; raises UsageError, TypeError, ValueError or KeyError."""
    item = members.mapping(value)
    if set(item) - {"address", "port", "host", "target", "protocol"}:
        raise ValueError(f"{item!r} is no link")
    protocol = members.text(item.get("protocol", ""))
    return checked_link(
        Link(
            ip_address(members.text(item["address"])),
            port_number(members.integer(item["port"])),
            members.text(item["host"]),
            port_number(members.integer(item["target"])),
            protocol and one_of(protocol, PROTOCOLS, "protocol"),
        )
    )


def checked_link(link: Link) -> Link:
    """*link* if it can lead anywhere; raises UsageError."""
    import ipaddress

    local = ipaddress.ip_address(link.address)
    if local.is_unspecified or local.is_multicast or local.is_link_local:
        raise UsageError(
            f"The link {link} can't begin at {link.address}.", hint="Loopback addresses are usual."
        )
    try:
        host = ipaddress.ip_address(link.host)
    except ValueError:
        # Of digits alone it would be an address in a spelling of old (inet_aton(3)).
        if _HOST.fullmatch(link.host) and link.host.strip("0123456789."):
            return link
        raise UsageError(f"{link.host[:80]!r} is no host that a link could lead to.") from None
    if host.version != local.version and not host.is_loopback:
        raise UsageError(f"The link {link} can't lead from IPv{local.version} to IPv{host.version}.")
    if host.is_unspecified or host.is_multicast or host.is_link_local or "%" in link.host:
        raise UsageError(f"The link {link} can't lead to {link.host}.")
    return link


def parse_links(text: str) -> tuple[Link, ...]:
    """`-n`: [LOCAL:]PORT:HOST:PORT[/tcp|udp],...; without LOCAL it is 127.0.0.1, or ::1 where HOST is an IPv6 address.
    Raises UsageError."""
    found = []
    for word in text.split(","):
        match = _LINK.fullmatch(word)
        if not match:
            raise UsageError(
                f"{word[:80]!r} is no link.",
                hint="Write [LOCAL_IP:]LOCAL_PORT:HOST:PORT[/tcp|udp], an IPv6 address in brackets.",
            )
        host = match["host"]
        host = ip_address(host.strip("[]")) if "[" in host else host
        address = match["address"] or ("::1" if ":" in host else "127.0.0.1")
        protocol = match["protocol"].lower() if match["protocol"] else ""
        found.append(
            checked_link(
                Link(
                    ip_address(address.strip("[]")),
                    port_number(int(match["port"])),
                    host,
                    port_number(int(match["target"])),
                    protocol and one_of(protocol, PROTOCOLS, "protocol of a link"),
                )
            )
        )
    return tuple(found)
