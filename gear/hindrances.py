"""Rules of others on this machine that drop what networks forward.

Gear leaves them alone: what one drops is dropped.  It tells of them, and of the command that lets it through.
"""

from __future__ import annotations

from collections.abc import Sequence

from gear import containers, definitions, interfaces, live, packetfilter
from gear.forwarding import Dropper, Filter, advice, obstacles
from gear.model import Layout
from gear.records import dataclass


@dataclass(frozen=True)
class Hindrance:
    """A chain that drops what comes in to a network, or what leaves it."""

    network: str
    interface: str
    dropper: Dropper
    inward: bool

    @property
    def what(self) -> str:
        """What it does, after its name."""
        return f"drops what {'comes in to' if self.inward else 'leaves'} {self.network}"

    @property
    def hint(self) -> str:
        """The command that ends it."""
        return advice(self.dropper, self.interface, inward=self.inward)


def of_networks(layout: Layout, names: Sequence[str]) -> list[Hindrance]:
    """What hinders those of the networks *names* that are up; raises GearError."""
    defined = {name: definitions.find(layout, name) for name in definitions.names(layout)}
    wanted = [
        item for name, item in defined.items() if name in names and item is not None and not item.internal
    ]
    if not wanted:
        return []
    rules = Filter(packetfilter.ruleset(), [item.table for item in defined.values() if item is not None])
    if not rules.forwards:
        return []
    links = interfaces.links()
    members = [live.network_member(layout, name) for name in containers.names(layout)]
    found = []
    for definition in wanted:
        if definition.interface not in links:
            continue
        published = any(
            port["table"] == definition.table for item in members for port in item.get("ports", ())
        )
        versions = [item.version for item in definition.subnets]
        outside = interfaces.outside(links)
        for dropper, inward in obstacles(rules, definition.interface, outside, versions, published=published):
            found.append(Hindrance(definition.name, definition.interface, dropper, inward))
    return found
