"""Whether the kernel has of networks what their definitions and the containers that run say, and nothing of networks
that are not there.

Not what is on disk (gear/network_check.py), and not when it is mended (gear/network_repair.py).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gear import containers, definitions, files, interfaces, live, packetfilter
from gear.definition import Definition
from gear.findings import Finding
from gear.helper import networks as made
from gear.helper import ruleset, shaping, sysctls
from gear.helper.nftables import Maps, elements
from gear.model import Layout
from gear.spec import Spec
from gear.systemd import Manager
from gear.underlay import MACVLAN

_VETH = re.compile(r"ve[0-9a-f]{12}", re.ASCII)
_ALIAS = "gear network "


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
    is false while it starts or ends, or runs with earlier files: what there is of it can't be compared then."""

    name: str
    runs: bool
    settled: bool
    wanted: Mapping[str, Any]
    sockets: int | None


def members(manager: Manager, layout: Layout) -> dict[str, Member]:
    """Every container, by name."""
    found = {}
    for name in containers.names(layout):
        spec = containers.existing(layout, name)
        if spec is not None:
            found[name] = _member(manager, layout, spec)
    return found


def _member(manager: Manager, layout: Layout, spec: Spec) -> Member:
    unit = containers.unit_of(layout, spec.name)
    state = str(manager.get(unit, "ActiveState", "s"))
    service = manager.properties(unit, "Service") if unit.endswith(".service") else {}
    run = containers.run_of(layout, spec.name)
    # What ran in a terminal is cleaned up by gear itself, a moment later than PID 1 hears of its end.
    settled = state == "active" or (state in ("inactive", "failed") and (run is None or run.kind != "scope"))
    return Member(
        spec.name,
        state == "active",
        settled and not containers.is_stale(spec, layout, service),
        live.network_member(layout, spec.name),
        service.get("NFileDescriptorStore"),
    )


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
    for name in wanted:
        if name not in found:
            yield Finding(where, f"has no {name}")
        elif found[name] != wanted[name]:
            missing = sum(item not in found[name] for item in wanted[name])
            more = sum(item not in wanted[name] for item in found[name])
            yield Finding(where, f"has another {name or 'head'} than it should: {_differing(missing, more)}")
    for name in found:
        if name not in wanted:
            yield Finding(where, f"has {name}, which is not gear's")


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
    tables = packetfilter.tables(kernel.rules)
    for member, item in _on(definition, every):
        if not (member.runs and member.settled):
            continue
        table, device = ruleset.table_of_limits(member.name), item.get("limits", {}).get("device")
        if ("priority" in member.wanted or "connections" in member.wanted) and table not in tables:
            yield Finding(f"the table inet {table}", f"is not there, so {member.name} has no limits")
        if device is not None and device not in kernel.links:
            hint = f"gear restart {member.name}"
            yield Finding(
                f"the link {device}", f"is not there, so {member.name} sends at any rate", hint=hint
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


def strays(manager: Manager, layout: Layout) -> Iterator[Finding]:
    """What there is of networks and containers that are not there."""
    kernel, defined = Kernel(), [definitions.find(layout, name) for name in definitions.names(layout)]
    bridges = {item.interface for item in defined if item is not None}
    bridges |= {item.tunnel for item in defined if item is not None and item.tunnel is not None}
    tables = {item.table for item in defined if item is not None}
    for table in packetfilter.tables(kernel.rules):
        if table.startswith("gear-") and table not in tables:

            def delete_table(table: str = table) -> None:
                packetfilter.delete_table(table)

            yield Finding(f"the table inet {table}", "is of no network that is defined", mend=delete_table)
    every = members(manager, layout)
    yield from _stray_limits(every, kernel)
    wanted = [item for member in every.values() for item in member.wanted.get("interfaces", ())]
    ends = {item["host"] for item in wanted}
    for name, link in kernel.links.items():
        bridge = link.kind in ("bridge", "vxlan") and link.alias.startswith(_ALIAS) and name not in bridges
        if bridge or (link.kind == "veth" and _VETH.fullmatch(name) and name not in ends):

            def delete_link(name: str = name) -> None:
                interfaces.delete(name)

            what = "network that is defined" if bridge else "container that is installed"
            yield Finding(f"the link {name}", f"is of no {what}", mend=delete_link)
    yield from _stray_units(manager, {item.unit for item in defined if item is not None})


def _stray_limits(every: Mapping[str, Member], kernel: Kernel) -> Iterator[Finding]:
    """Of containers that do not run, or have no such limits."""
    limited, devices = set(), set()
    for member in every.values():
        if member.runs or not member.settled:
            if "priority" in member.wanted or "connections" in member.wanted or not member.settled:
                limited.add(ruleset.table_of_limits(member.name))
            found = [item.get("limits", {}).get("device") for item in member.wanted.get("interfaces", ())]
            devices |= {device for device in found if device is not None}
    for table in packetfilter.tables(kernel.rules):
        if table.startswith(ruleset.LIMITS) and table not in limited:

            def delete_table(table: str = table) -> None:
                packetfilter.delete_table(table)

            whose = f"{table.removeprefix(ruleset.LIMITS)}, which does not run with any"
            yield Finding(f"the table inet {table}", f"has limits of {whose}", mend=delete_table)
    for name, link in kernel.links.items():
        if link.kind == "ifb" and link.alias.startswith(shaping.ALIAS) and name not in devices:

            def delete_link(name: str = name) -> None:
                interfaces.delete(name)

            whose = f"{link.alias.removeprefix(shaping.ALIAS)}, which does not run with any"
            yield Finding(f"the link {name}", f"has a rate of {whose}", mend=delete_link)


def _stray_units(manager: Manager, units: Collection[str]) -> Iterator[Finding]:
    for state in manager.list_units(["gear-network@*.service"]):
        if state.name not in units and state.active not in ("inactive", "failed"):

            def stop(unit: str = state.name) -> None:
                manager.stop([unit])
                manager.reset_failed(unit)

            yield Finding(state.name, "is active, and its network is not defined", mend=stop)
