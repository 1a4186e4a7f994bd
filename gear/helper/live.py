"""Changing the network of a container that runs: interfaces, addresses, published ports, links and names, as the next
start would make them.

`adjust` is told what the container was started with and makes start.json so; `link` sees to links alone.
"""

from __future__ import annotations

import posix as os
import sys
from fcntl import LOCK_EX, flock

from gear.helper import conntrack, links, renaming, shaping
from gear.helper.announcing import announce
from gear.helper.failure import Failure, Step
from gear.helper.joined import Namespaces, within
from gear.helper.network import Network, add_link, configure, limit
from gear.helper.nftables import Maps
from gear.helper.ports import network_of
from gear.helper.rtnetlink import Routes, index_of, of_descriptor
from gear.helper.ruleset import table_of_limits
from gear.helper.sysctls import usable, wants_hairpin

# A link with another value of these is another link.
_FIXED = ("network", "bridge", "mode", "host", "name", "mac", "mtu")


def link(bundle: str, pid: int, step: Step) -> None:
    """Make the links of the running container as start.json has them; raises Failure."""
    containers, _, name = bundle.rpartition("/")
    place = Namespaces(pid, name, step)
    _tell(links.make(place.network, network_of(name, containers), name, containers, step))


def _tell(problems: list[str]) -> None:
    """Raise Failure with the last of *problems*, after printing the others."""
    for problem in problems[:-1]:
        print(f"gear: {problem}", file=sys.stderr, flush=True)
    if problems:
        raise Failure(problems[-1])


def adjust(bundle: str, pid: int, before: dict, step: Step) -> None:  # type: ignore[type-arg]
    """Make the network of the running container as start.json has it; *before* is what it was made of.

    Raises Failure.
    """
    containers, _, name = bundle.rpartition("/")
    wanted = network_of(name, containers)
    interfaces, locks = wanted.get("interfaces", []), []
    for network in sorted({item["network"] for item in interfaces}):
        # Neither a start of the container, nor `up` or `down`, comes between.
        step.doing = f"lock the network {network}"
        path = f"{containers.rpartition('/')[0]}/networks/{network}"
        locks.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        flock(locks[-1], LOCK_EX)
    place = Namespaces(pid, name, step)
    changed = _reconnect(before.get("interfaces", []), interfaces, place, step)
    _limit(name, before, wanted, step)
    step.doing = f"configure the interfaces of {name}"
    within(place.network, lambda: _configure(interfaces, changed, step), step, user=place.user)
    if before.get("ports", []) != wanted.get("ports", []):
        step.doing = f"publish the ports of {name}"
        maps = Maps()
        for table in sorted({port["table"] for port in before.get("ports", [])}):
            maps.remove_of(table, name)
        maps.close()
        Network(bundle, wanted).publish()
    _forget(before, wanted, step)
    step.doing = f"announce the addresses of {name}"
    routes = Routes()
    announce(routes, [item for item in interfaces if item["name"] in changed]).close()
    routes.close()
    problems: list[str] = []
    if before.get("links") or wanted.get("links"):
        problems = links.make(place.network, wanted, name, containers, step)
    # Last, and without the locks: this goes by the container's own files, which may answer to nobody.
    for lock in locks:
        os.close(lock)
    _tell(problems + renaming.rename(bundle, wanted, place, step))


def _reconnect(before: list, wanted: list, place: Namespaces, step: Step) -> list[str]:  # type: ignore[type-arg]
    """Remove links that are not wanted any more and make those that are missing.  Returns the names of the interfaces
    that are new, or have other addresses."""
    routes, hairpin = Routes(), wants_hairpin()
    have, same = [[_identity(item) for item in items] for items in (before, wanted)]
    for item in before:
        if _identity(item) in same:
            continue
        step.doing = f"disconnect {item['name']} from the network {item['network']}"
        if "mode" in item:
            # The host has no end of it.
            within(place.network, lambda: _delete(item["name"]), step)  # noqa: B023 (called at once)
        else:
            routes.delete_link(item["host"])
    changed = [item["name"] for item in wanted if item not in before]
    for item in wanted:
        if _identity(item) in have if "mode" in item else index_of(item["host"]):
            continue
        add_link(routes, item, of_descriptor(place.network), step, hairpin=hairpin)
        if item["name"] not in changed:
            changed.append(item["name"])
    routes.close()
    return changed


def _limit(name: str, before: dict, wanted: dict, step: Step) -> None:  # type: ignore[type-arg]
    """Make rates and the rest of the limits what they should be; the links are there."""
    # What is a macvlan passes the host by.
    had, interfaces = (
        [item for item in found.get("interfaces", []) if "mode" not in item] for found in (before, wanted)
    )
    for item in had:
        if item not in interfaces:
            shaping.unshape(item)
    for item in interfaces:
        if item not in had:
            shaping.shape(item, name, step)
    # A table that is made anew counts from nothing.
    if any(before.get(key) != wanted.get(key) for key in ("interfaces", "connections", "priority")):
        step.doing = f"limit the traffic of {name}"
        maps = Maps()
        maps.delete_table(table_of_limits(name))
        maps.close()
        limit(name, wanted, step)


def _identity(item: dict) -> list:  # type: ignore[type-arg]
    return [item.get(key) for key in _FIXED]


def _delete(name: str) -> None:
    """In the container's namespace, with the host's rights."""
    routes = Routes()
    routes.delete_link(name)
    routes.close()


def _configure(interfaces: list, changed: list[str], step: Step) -> None:  # type: ignore[type-arg]
    """With the container's own rights: give the interfaces *changed* their addresses and no others."""
    routes = Routes()
    for item in interfaces:
        if item["name"] in changed:
            step.doing = f"change the addresses of {item['name']}"
            routes.set_addresses(index_of(item["name"]), usable(item["addresses"]))
    # With an address its routes have gone, and the way out may be another interface now.
    routes.close()
    configure(interfaces, step)


def _forget(before: dict, wanted: dict, step: Step) -> None:  # type: ignore[type-arg]
    """Forget connections with addresses that it has no more, as after its end."""
    step.doing = "forget connections"
    have = {address for item in wanted.get("interfaces", ()) for address in item["addresses"]}
    had = [address for item in before.get("interfaces", ()) for address in item["addresses"]]
    conntrack.forget_addresses([address.partition("/")[0] for address in had if address not in have])
