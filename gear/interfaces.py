"""The links of this host, with their addresses and routes, over pyroute2.

Not for starts of containers, which make links in a fraction of the time that pyroute2 takes to be imported
(gear/helper/rtnetlink.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Any

from gear.errors import HostError
from gear.records import dataclass, field

# Where everything goes that no other route is for.
DEFAULT = "default"
_UP = 0x1  # IFF_UP, linux/if.h
_ATTEMPTS = 30  # at reading what changes meanwhile


@dataclass(frozen=True)
class Link:
    """A link.  *master* is the name of the bridge that it is a port of; *addresses* are ADDRESS/LENGTH, without those
    that the kernel makes itself; *routes* destinations that lead there, of all tables."""

    name: str
    kind: str
    up: bool
    mtu: int
    alias: str
    master: str
    addresses: frozenset[str] = field(default_factory=frozenset)
    routes: frozenset[str] = field(default_factory=frozenset)


def links() -> dict[str, Link]:
    """Every link of this host by its name; raises HostError."""
    with _rtnetlink() as asked:
        found = _dump(asked.get_links)
        names = {item["index"]: item.get_attr("IFLA_IFNAME") for item in found}
        addresses: dict[int, set[str]] = {}
        for item in _dump(asked.get_addr):
            address = item.get_attr("IFA_LOCAL") or item.get_attr("IFA_ADDRESS")
            if not address.startswith("fe80:"):
                addresses.setdefault(item["index"], set()).add(f"{address}/{item['prefixlen']}")
        routes: dict[int, set[str]] = {}
        for item in _dump(asked.get_routes):
            destination = item.get_attr("RTA_DST")
            text = f"{destination}/{item['dst_len']}" if destination else DEFAULT
            routes.setdefault(item.get_attr("RTA_OIF"), set()).add(text)
        return {
            names[item["index"]]: Link(
                names[item["index"]],
                (item.get_attr("IFLA_LINKINFO") and item.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND"))
                or "",
                bool(item["flags"] & _UP),
                item.get_attr("IFLA_MTU"),
                item.get_attr("IFLA_IFALIAS") or "",
                names.get(item.get_attr("IFLA_MASTER"), ""),
                frozenset(addresses.get(item["index"], ())),
                frozenset(routes.get(item["index"], ())),
            )
            for item in found
        }


def delete(name: str) -> None:
    """Remove the link *name*, and with a veth its other end; it may be gone, or go meanwhile.  Raises HostError."""
    with _rtnetlink() as asked:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            asked.link("del", ifname=name)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise HostError(f"Can't remove the link {name}: {os.strerror(error.code)}.") from error


def _dump(ask: Callable[[], Iterable[Any]]) -> list[Any]:
    """The answers to a question for everything there is of a kind.

    What changes while the kernel tells may be missing in its answers, or be there twice: it says so at their end, and
    is asked again (NLM_F_DUMP_INTR, linux/netlink.h).  Raises HostError when that does not end.
    """
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

    for _ in range(_ATTEMPTS):
        try:
            return list(ask())
        except NetlinkDumpInterrupted:
            continue
    raise HostError("Can't read the links of this host: they change all the time.", hint="Try again later.")


def _rtnetlink() -> Any:
    try:
        from pyroute2 import IPRoute
    except ImportError as error:
        raise HostError(
            f"The Python module pyroute2 can't be loaded: {error}.", hint="apt-get install python3-pyroute2"
        ) from error
    return IPRoute()


def outside(every: dict[str, Link]) -> list[str]:
    """The links by which this host reaches others: those with default routes, or all that may be such."""
    found = [name for name, link in every.items() if DEFAULT in link.routes and name != "lo"]
    return found or [
        name for name, link in every.items() if link.kind != "bridge" and not link.master and name != "lo"
    ]
