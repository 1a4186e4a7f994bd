"""`linux.netDevices`: network devices of the host that become the container's (config-linux.md, "Network Devices").

The only module of the runtime that imports pyroute2, and only for bundles that have such devices: the import
takes longer than everything else that `create` does.
"""

from __future__ import annotations

import os

from gear.helper.failure import Failure
from gear.runtime.placement import third_party

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gear.runtime.report import Log

_PERMANENT = 0x80  # IFA_F_PERMANENT, linux/if_addr.h
_GLOBAL = 0  # RT_SCOPE_UNIVERSE, linux/rtnetlink.h


def move(devices: dict[str, Any], pid: int) -> list[tuple[str, str]]:
    """Move *devices* into the network namespace of *pid*, rename them, keep their addresses, set them up; returns each
    one's name on the host and there.

    After a failure those that were moved are the host's again, with their names.
    """
    third_party()
    try:
        from pyroute2 import IPRoute, NetNS
        from pyroute2.netlink.exceptions import NetlinkError
    except ImportError as error:
        raise Failure(f"linux.netDevices need the Python module pyroute2: {error}") from error
    moved: list[tuple[str, str]] = []
    with IPRoute() as host, NetNS(f"/proc/{pid}/ns/net", flags=0) as inside:
        for name, options in devices.items():
            target = (options or {}).get("name") or name
            try:
                moved.append((name, _move_one(host, inside, pid, name, target)))
            except (NetlinkError, Failure) as error:
                _move_back(inside, moved)
                if isinstance(error, Failure):
                    raise
                reason = os.strerror(error.code)
                raise Failure(f"can't move the network device {name} into the container: {reason}") from error
    return moved


def _move_one(host: Any, inside: Any, pid: int, name: str, target: str) -> str:
    found = host.link_lookup(ifname=name)
    if not found:
        raise Failure(f"there is no network device {name}")
    if "%" not in target and inside.link_lookup(ifname=target):
        raise Failure(f"the container has a network device {target} already")
    (index,) = found
    addresses = [
        (address.get_attr("IFA_ADDRESS"), address["prefixlen"], address["family"])
        for address in host.get_addr(index=index)
        if address["scope"] == _GLOBAL and (address.get_attr("IFA_FLAGS") or address["flags"]) & _PERMANENT
    ]
    before = {link["index"] for link in inside.get_links()}
    host.link("set", index=index, state="down")  # a device that is up can't be renamed
    host.link("set", index=index, net_ns_pid=pid, ifname=target)
    # With a pattern as its name the kernel chose the number; the index may have changed as well.
    (new,) = {link["index"] for link in inside.get_links()} - before or {index}
    for address, length, family in addresses:
        inside.addr("add", index=new, address=address, prefixlen=length, family=family)
    inside.link("set", index=new, state="up")
    (link,) = inside.get_links(new)
    return str(link.get_attr("IFLA_IFNAME"))


def give_back(moved: list[tuple[str, str]], namespace: int, log: Log) -> None:
    """Move what is still in the network namespace *namespace*, a descriptor, to the host again, as it was called: with
    the namespace the kernel would destroy whatever is no hardware."""
    from pyroute2 import NetNS

    try:
        with NetNS(f"/proc/{os.getpid()}/fd/{namespace}", flags=0) as inside:
            _move_back(inside, moved)
    except (
        Exception
    ) as error:  # pyroute2 raises what it likes; the failure that led here is the one to be told
        log.warn(f"can't give the container's network devices back: {error}")


def _move_back(inside: Any, moved: list[tuple[str, str]]) -> None:
    for name, target in reversed(moved):
        for index in inside.link_lookup(ifname=target):
            inside.link("set", index=index, state="down")
            inside.link("set", index=index, net_ns_pid=os.getpid(), ifname=name)
