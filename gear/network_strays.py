"""What the kernel and PID 1 have of networks and containers that are not there.

Names alone make nothing gear's: a table is its own if it has the shape of what it makes.  And what may belong to a
container that runs is never taken away: start.json says what the next start makes, and not what the last one made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from gear import attachment, definitions, interfaces, leftovers, packetfilter
from gear.definition import Definition
from gear.errors import GearError
from gear.findings import Finding
from gear.helper import nftables, ruleset, shaping
from gear.model import Layout
from gear.network import unit_name
from gear.network_state import ENDED, Kernel, Member, members
from gear.patterns import pattern
from gear.records import dataclass
from gear.systemd import Manager, UnitState

_VETH = pattern(r"ve[0-9a-f]{12}", re.ASCII)
_RATE = pattern(rf"{shaping.BEGINNING}[0-9a-f]{{13}}", re.ASCII)
_ALIAS = "gear network "
# What all tables of networks have had, and of limits one of these at least.
_NETWORK = {*(("map", name) for name in nftables.MAPS), ("chain", "guard"), ("chain", "published")}
_LIMITS = ({("chain", "marked")}, {("chain", "counted")})
# More interfaces than that have no names that are looked for.
_INTERFACES = 64


@dataclass(frozen=True)
class _Defined:
    """The networks that are: definitions, and the names of those whose definition can't be read."""

    definitions: list[Definition]
    unreadable: list[str]

    def tables(self) -> set[str]:
        return {item.table for item in self.definitions} | set(map(ruleset.table_of, self.unreadable))

    def units(self) -> set[str]:
        return {item.unit for item in self.definitions} | set(map(unit_name, self.unreadable))

    def has(self, name: str, link: interfaces.Link) -> bool:
        """Whether the bridge or VXLAN *name* is of one of them."""
        used = any(name in (item.interface, item.tunnel) for item in self.definitions)
        return used or link.alias.removeprefix(_ALIAS) in self.unreadable


def strays(manager: Manager, layout: Layout) -> Iterator[Finding]:
    """All of it; nothing while another installation of gear, with other directories, is at work on this machine."""
    units = [
        state for state in manager.list_units([unit_name("*"), "ctr-*.service"]) if state.active not in ENDED
    ]
    if any(_is_elsewhere(manager, layout, state.name) for state in units):
        return
    defined = _defined(layout)
    kernel = Kernel()
    # Looked at before it is asked who runs, or what is made meanwhile would seem to be nobody's.
    links, rules = kernel.links, kernel.rules
    every = members(manager, layout)
    tables = {name: _shape(kernel, name) for name in packetfilter.tables(rules)}
    for table, shape in tables.items():
        if table.startswith("gear-") and table not in defined.tables() and shape >= _NETWORK:
            yield _table(table, "is of no network that is defined")
    yield from _limits(
        every, {name for name, shape in tables.items() if any(part <= shape for part in _LIMITS)}
    )
    yield from _rates(every, links)
    for name, link in links.items():
        if link.kind in ("bridge", "vxlan") and link.alias.startswith(_ALIAS) and not defined.has(name, link):
            yield _link(name, "is of no network that is defined")
    yield from _veths(every, links)
    yield from _units(manager, units, defined.units())


def _is_elsewhere(manager: Manager, layout: Layout, unit: str) -> bool:
    path = str(manager.get(unit, "FragmentPath", "s"))
    return bool(path) and leftovers.rendered_elsewhere(Path(path), layout)


def _defined(layout: Layout) -> _Defined:
    found, unreadable = [], []
    for name in definitions.names(layout):
        try:
            definition = definitions.find(layout, name)
        except GearError:  # has been told
            unreadable.append(name)
            continue
        if definition is not None:
            found.append(definition)
    return _Defined(found, unreadable)


def _shape(kernel: Kernel, table: str) -> set[tuple[str, str]]:
    """The kind and name of each part of a table."""
    parts = packetfilter.of_table(kernel.rules, table)
    return {(kind, name) for name, items in parts.items() for item in items for kind in item}


def _table(table: str, what: str) -> Finding:
    return Finding(f"the table inet {table}", what, mend=partial(packetfilter.delete_table, table))


def _link(name: str, what: str) -> Finding:
    return Finding(f"the link {name}", what, mend=partial(interfaces.delete, name))


def _limits(every: Mapping[str, Member], tables: Collection[str]) -> Iterator[Finding]:
    """Tables of containers that do not run, or have no such limits."""
    limited = {
        ruleset.table_of_limits(member.name)
        for member in every.values()
        if not member.settled
        or (member.runs and ("priority" in member.wanted or "connections" in member.wanted))
    }
    for table in tables:
        if table.startswith(ruleset.LIMITS) and table not in limited:
            whose = table.removeprefix(ruleset.LIMITS)
            yield _table(table, f"has limits of {whose}, which does not run with any")


def _rates(every: Mapping[str, Member], links: Mapping[str, interfaces.Link]) -> Iterator[Finding]:
    """Devices, likewise."""
    unsettled = {shaping.alias(member.name) for member in every.values() if not member.settled}
    used = {
        item.get("limits", {}).get("device")
        for member in every.values()
        if member.runs
        for item in member.wanted.get("interfaces", ())
    }
    for name, link in links.items():
        ours = link.kind == "ifb" and link.alias.startswith(shaping.ALIAS) and _RATE.fullmatch(name)
        if ours and name not in used and link.alias not in unsettled:
            whose = link.alias.removeprefix(shaping.ALIAS)
            yield _link(name, f"has a rate of {whose}, which does not run with any")


def _veths(every: Mapping[str, Member], links: Mapping[str, interfaces.Link]) -> Iterator[Finding]:
    """The host's ends of containers, which do not say whose they are."""
    unsettled = sorted(member.name for member in every.values() if not member.settled)
    known = {item["host"] for member in every.values() for item in member.wanted.get("interfaces", ())}
    known |= {
        attachment.host_end(name, f"eth{number}") for name in unsettled for number in range(_INTERFACES)
    }
    for name, link in links.items():
        if link.kind != "veth" or not _VETH.fullmatch(name) or name in known:
            continue
        if unsettled:
            yield Finding(
                f"the link {name}",
                f"is of no container as it is installed now, but may be of {', '.join(unsettled)}",
                hint=f"gear restart {' '.join(unsettled)}; if that is refused, gear fsck says why",
            )
        else:
            yield _link(name, "is of no container that is installed")


def _units(manager: Manager, active: Collection[UnitState], units: Collection[str]) -> Iterator[Finding]:
    for state in active:
        if state.name.startswith("gear-network@") and state.name not in units:
            yield Finding(
                state.name, "is active, and its network is not defined", mend=_stop(manager, state.name)
            )


def _stop(manager: Manager, unit: str) -> Callable[[], None]:
    def stop() -> None:
        manager.stop([unit])
        manager.reset_failed(unit)

    return stop
