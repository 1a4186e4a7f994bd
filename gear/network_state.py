"""Whether the kernel has of networks what their definitions and the containers that run say.

Not what is on disk (gear/network_check.py), not what there is of others (gear/network_strays.py), and not when it is
mended (gear/network_repair.py).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from gear import containers, files, interfaces, live, packetfilter
from gear.definition import Definition
from gear.errors import GearError
from gear.findings import Finding
from gear.helper import networks as made
from gear.helper import ruleset, sysctls
from gear.helper.nftables import Maps, elements
from gear.model import NAME, Layout, unit_name
from gear.records import dataclass
from gear.systemd import Manager
from gear.underlay import MACVLAN

# States of units of which nothing is left.
ENDED = ("inactive", "failed")


class Kernel:
    """What the kernel has, each looked up once and when it is asked for."""

    @cached_property
    def links(self) -> dict[str, interfaces.Link]:
        return interfaces.links()

    @cached_property
    def rules(self) -> list[dict[str, Any]]:
        return packetfilter.ruleset()


@dataclass(frozen=True)
class Member:
    """A container that is on a network, or was: its state as PID 1 has it, and `network` of its start.json.  *settled*
    is false while it starts or ends, runs with earlier files, or its own can't be read: what there is of it can't be
    compared then, and what nobody is known to have may be its own."""

    name: str
    runs: bool
    settled: bool
    wanted: Mapping[str, Any]
    sockets: int | None


def members(manager: Manager, layout: Layout) -> dict[str, Member]:
    """Every container, by name: with those whose specification is damaged, and those that run without having any."""
    found = {name: _member(manager, layout, name) for name in containers.names(layout)}
    for state in manager.list_units([unit_name("*"), containers.scope_name("*")]):
        name = state.name.removeprefix("ctr-").rpartition(".")[0]
        if NAME.fullmatch(name) and name not in found and state.active not in ENDED:
            found[name] = _unknown(name, runs=state.active == "active")
    return found


def _member(manager: Manager, layout: Layout, name: str) -> Member:
    try:
        spec, run = containers.get(layout, name), containers.run_of(layout, name)
        unit = containers.unit_of(layout, name)
    except GearError:
        return _unknown(name, runs=str(manager.get(unit_name(name), "ActiveState", "s")) == "active")
    state = str(manager.get(unit, "ActiveState", "s"))
    service = manager.properties(unit, "Service") if unit.endswith(".service") else {}
    try:
        wanted = live.network_member(layout, name)
    except GearError:
        wanted = {}
    if state in ENDED:
        # What ran in a terminal is cleaned up by gear itself, a moment later than PID 1 hears of its end.
        settled = run is None or run.kind != "scope" or not containers.has_owner(layout, name)
    else:
        settled = state == "active" and bool(wanted or not spec.network.interfaces)
    return Member(
        name,
        state == "active",
        settled and not containers.is_stale(spec, layout, service),
        wanted,
        service.get("NFileDescriptorStore"),
    )


def _unknown(name: str, *, runs: bool) -> Member:
    return Member(name, runs, settled=False, wanted={}, sockets=None)


@contextmanager
def held(layout: Layout, name: str) -> Iterator[None]:
    """Keep starts, ends, and the network's unit from changing what the kernel has of the network *name*."""
    with files.explained(f"lock the network {name}"):
        lock = os.open(layout.networks / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def check(manager: Manager, layout: Layout, definition: Definition) -> list[Finding]:
    """What is wrong with one network, without how it is mended."""
    with held(layout, definition.name):
        state = str(manager.get(definition.unit, "ActiveState", "s"))
        if state in ("activating", "deactivating", "reloading"):  # it waits for the lock
            return []
        every = members(manager, layout)
        kernel = Kernel()
        if state == "active" and definition.driver == MACVLAN:
            return list(_parent(definition, kernel))
        if state == "active":
            return [
                *_bridge(definition, kernel),
                *_tunnel(definition, kernel),
                *_variables(definition),
                *_table(definition, kernel),
                *_elements(definition, every),
                *_ports_of_bridge(definition, every, kernel),
                *_limits(definition, every, kernel),
                *_sockets(definition, every),
            ]
        return list(_down(definition, every, kernel, state))


def _on(definition: Definition, every: Mapping[str, Member]) -> Iterator[tuple[Member, dict[str, Any]]]:
    """The containers on the network, each with its interface there."""
    for member in every.values():
        for item in member.wanted.get("interfaces", ()):
            if item["network"] == definition.name:
                yield member, item


def _down(
    definition: Definition, every: Mapping[str, Member], kernel: Kernel, state: str
) -> Iterator[Finding]:
    users = sorted({member.name for member, _ in _on(definition, every) if member.runs})
    if users:
        yield Finding(definition.unit, f"is {state}, but {', '.join(users)} on it run")
        return
    if definition.interface in kernel.links:
        yield Finding(f"the link {definition.interface}", f"is there, but {definition.unit} is {state}")
    if definition.table in packetfilter.tables(kernel.rules):
        yield Finding(f"the table inet {definition.table}", f"is there, but {definition.unit} is {state}")


def _parent(definition: Definition, kernel: Kernel) -> Iterator[Finding]:
    """All that there is of macvlans outside of containers."""
    link = kernel.links.get(definition.device)
    if link is None or not link.up:
        what = "is not there" if link is None else "is down"
        yield Finding(f"the link {definition.device}", f"{what}, but the network {definition.name} is on it")


def _bridge(definition: Definition, kernel: Kernel) -> Iterator[Finding]:
    where = f"the link {definition.interface}"
    link = kernel.links.get(definition.interface)
    if link is None:
        yield Finding(where, f"is not there, but {definition.unit} is active")
        return
    if link.kind != "bridge":
        yield Finding(where, f"is no bridge but of the kind {link.kind or 'of hardware'}")
    if not link.up:
        yield Finding(where, "is down")
    if definition.mtu is not None and link.mtu != definition.mtu:
        yield Finding(where, f"has an MTU of {link.mtu} and not of {definition.mtu}")
    wanted = set(made.addresses(definition.to_mapping()))
    for address in sorted(wanted - link.addresses):
        yield Finding(where, f"does not have the address {address}")
    for address in sorted(link.addresses - wanted):
        yield Finding(where, f"has the address {address}, which is not the network's")
    have = {address.rpartition("/")[0] for address in wanted & link.addresses}
    for subnet in definition.subnets:
        if link.up and str(subnet.gateway) in have and str(subnet.subnet) not in link.routes:
            yield Finding(where, f"has no route to {subnet.subnet}")
    if link.up and made.has_loopback6(definition.to_mapping()) and "::1/128" not in link.routes:
        yield Finding(where, "has no route to ::1, by which answers to that address come back")


def _tunnel(definition: Definition, kernel: Kernel) -> Iterator[Finding]:
    """The port of a bridge that leads to other hosts."""
    if definition.tunnel is None:
        return
    where, link = f"the link {definition.tunnel}", kernel.links.get(definition.tunnel)
    if link is None:
        yield Finding(where, f"is not there, so {definition.name} does not reach other hosts")
    elif link.kind != "vxlan":
        yield Finding(where, f"is no VXLAN but of the kind {link.kind or 'of hardware'}")
    elif link.master != definition.interface:
        yield Finding(where, f"is no port of {definition.interface}")
    elif not link.up:
        yield Finding(where, "is down")
    elif definition.mtu is not None and link.mtu != definition.mtu:
        yield Finding(where, f"has an MTU of {link.mtu} and not of {definition.mtu}")


def _variables(definition: Definition) -> Iterator[Finding]:
    for name, value in made.variables(definition.to_mapping()):
        found = sysctls.read(name)
        if found not in ("", value):  # empty: the bridge is not there, which has been told
            yield Finding(f"/proc/sys/net/{name}", f"is {found} and not {value}")


def _table(definition: Definition, kernel: Kernel) -> Iterator[Finding]:
    """The rules, one by one; elements of maps are looked at otherwise."""
    where = f"the table inet {definition.table}"
    found = packetfilter.of_table(kernel.rules, definition.table)
    if not found:
        yield Finding(where, f"is not there, but {definition.unit} is active")
        return
    document = definition.to_mapping()
    text = ruleset.render(document, [], loopback6=made.has_loopback6(document))
    wanted = packetfilter.of_table(packetfilter.loaded(text), definition.table)
    yield from _differences(where, found, wanted)


def _differences(
    where: str, found: Mapping[str, list[Any]], wanted: Mapping[str, list[Any]], hint: str = ""
) -> Iterator[Finding]:
    """How a table, as packetfilter.of_table() has it, is another than it should be."""
    for name in wanted:
        if name not in found:
            yield Finding(where, f"has no {name}", hint=hint)
        elif found[name] != wanted[name]:
            missing = sum(item not in found[name] for item in wanted[name])
            more = sum(item not in wanted[name] for item in found[name])
            what = f"has another {name or 'head'} than it should: {_differing(missing, more)}"
            yield Finding(where, what, hint=hint)
    for name in found:
        if name not in wanted:
            yield Finding(where, f"has {name}, which is not gear's", hint=hint)


def _differing(missing: int, more: int) -> str:
    words = [f"{missing} missing"] if missing else []
    words += [f"{more} that are not gear's"] if more else []
    return f"of its lines {' and '.join(words)}" if words else "its lines are in another order"


def _elements(definition: Definition, every: Mapping[str, Member]) -> Iterator[Finding]:
    """The published ports of containers that run, and no others."""
    maps = Maps()
    with files.explained(f"read the maps of the table inet {definition.table}"):
        try:
            found = maps.published(definition.table)
        finally:
            maps.close()
    wanted = {
        (item.map, item.key()): (item, member.name)
        for member in every.values()
        if member.runs and member.settled
        for port in member.wanted.get("ports", ())
        if port["table"] == definition.table
        for item in elements(port, member.name)
    }
    where = f"the table inet {definition.table}"
    for place, (item, name) in wanted.items():
        host = f"{f'[{item.address}]' if ':' in item.address else item.address}:" if item.address else ""
        port = f"{host}{item.port}/{item.protocol}"
        if place not in found:
            yield Finding(where, f"does not lead the port {port} to {name} at {item.to}")
        elif found[place] != (item.value(), name):
            yield Finding(where, f"leads the port {port} elsewhere than to {name} at {item.to}")
    for (map_, key), (_, owner) in found.items():
        member = every.get(owner)
        if (map_, key) not in wanted and (member is None or member.settled):
            number, protocol = int.from_bytes(key[-4:-2], "big"), {6: "tcp", 17: "udp"}.get(key[-8], "?")
            whose = f"{owner}, which does not have it" if owner else "nobody"
            yield Finding(where, f"leads the port {number}/{protocol} to {whose}")


def _ports_of_bridge(
    definition: Definition, every: Mapping[str, Member], kernel: Kernel
) -> Iterator[Finding]:
    """Where containers are plugged in."""
    for member, item in _on(definition, every):
        where, link = f"the link {item['host']}", kernel.links.get(item["host"])
        if not member.settled or "mode" in item:
            continue
        if not member.runs:
            if link is not None:
                yield Finding(where, f"is there, but {member.name} does not run")
        elif link is None:
            yield Finding(where, f"is not there: {member.name} is not connected to {definition.name}")
        elif link.master != definition.interface:
            yield Finding(where, f"of {member.name} is no port of {definition.interface}")
        elif not link.up:
            yield Finding(where, f"of {member.name} is down")


def _limits(definition: Definition, every: Mapping[str, Member], kernel: Kernel) -> Iterator[Finding]:
    """What holds containers that run to their limits."""
    on = [(member, item) for member, item in _on(definition, every) if member.runs and member.settled]
    limited = {
        member.name: member
        for member, _ in on
        if "priority" in member.wanted or "connections" in member.wanted
    }
    text = "".join(ruleset.render_limits(name, dict(member.wanted)) for name, member in limited.items())
    rules = packetfilter.loaded(text) if text else []
    for name in limited:
        table = ruleset.table_of_limits(name)
        where, found = f"the table inet {table}", packetfilter.of_table(kernel.rules, table)
        if found:
            wanted = packetfilter.of_table(rules, table)
            yield from _differences(where, found, wanted, hint=f"gear restart {name}")
        else:
            yield Finding(where, f"is not there, so {name} has no limits")
    for member, item in on:
        device = item.get("limits", {}).get("device")
        if device is not None and device not in kernel.links:
            yield Finding(
                f"the link {device}",
                f"is not there, so {member.name} sends at any rate",
                hint=f"gear restart {member.name}",
            )


def _sockets(definition: Definition, every: Mapping[str, Member]) -> Iterator[Finding]:
    """PID 1 keeps others off published ports."""
    for member in every.values():
        ports = [port for port in member.wanted.get("ports", ()) if port["table"] == definition.table]
        if ports and member.runs and member.settled and member.sockets is not None:
            wanted = len(member.wanted["ports"])
            if member.sockets < wanted:
                yield Finding(
                    f"ctr-{member.name}.service",
                    f"has PID 1 hold {member.sockets} sockets for {wanted} published ports, so that others can take "
                    "them",
                    hint=f"gear restart {member.name}",
                )
