"""Containers on one network know each other by name: their hosts files, kept current.

Whoever changes what a container is called, or where it is, does so in told().  Hosts files are mounted in containers
that run, which see the change at once (gear/hostsfile.py).  The caller holds the lock.

Chosen over a name server for each network, which would have to run all the time: names change with installs alone,
addresses are kept, and every C library, and Go, Java and musl programs, read the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gear import allocation, attachment, composing, containers, definitions, files, hostsfile
from gear.errors import UsageError
from gear.inet import LOOPBACK
from gear.model import Layout
from gear.network import Interface
from gear.records import dataclass
from gear.spec import Spec


def require_unambiguous(layout: Layout, spec: Spec) -> None:
    """Raise UsageError for a name by which nobody, or somebody else, would be found."""
    if spec.network.interfaces and spec.name.lower() in LOOPBACK:
        raise UsageError(
            f"A container called {spec.name} can't be on a network: everybody means itself by it."
        )
    for item in spec.network.interfaces:
        for owner, *aliases in composing.names_on(layout, item.network).values():
            if owner == spec.name:
                continue
            if owner.lower() == spec.name.lower():
                raise UsageError(
                    f"{spec.name} can't be on {item.network}: there is {owner}, and names of hosts ignore case.",
                    hint="Choose another name, or another network.",
                )
            if owner.lower() in item.aliases:
                raise UsageError(
                    f"{spec.name} can't be called {owner} on {item.network}: a container has that name."
                )
            if spec.name.lower() in aliases:
                raise UsageError(
                    f"{spec.name} can't be on {item.network}: there {owner} has the alias {spec.name.lower()}."
                )
        _require_other_mac(layout, spec.name, item)


def _require_other_mac(layout: Layout, name: str, item: Interface) -> None:
    """Raise UsageError when another container has the MAC address that is asked for."""
    if item.mac == attachment.mac_address(name, item.network):
        return  # nobody else's, so no specification is read
    for owner in sorted({owner for owner, *_ in composing.names_on(layout, item.network).values()} - {name}):
        other = containers.existing(layout, owner)
        for interface in other.network.interfaces if other is not None else ():
            if (interface.network, interface.mac) == (item.network, item.mac):
                raise UsageError(
                    f"{name} can't have the address {item.mac} of {item.network}: {owner} has it."
                )


@contextlib.contextmanager
def told(layout: Layout, name: str, spec: Spec | None) -> Iterator[None]:
    """While the files of the container *name* become those of *spec*, or go; then all others on its networks are told.

    What is cut off in between is completed by the next change of a network, or by `gear clean`.
    """
    places = {
        path.parent.parent.name for path in allocation.held(layout, name) if path.parent.name == "addresses"
    }
    changes = []
    for network in sorted(places | set(spec.network.networks if spec is not None else ())):
        known = hostsfile.find(layout, network)
        have = composing.names_on(layout, network) if known is None else known
        wanted = {address: called for address, called in have.items() if called[0] != name}
        wanted |= composing.called(spec, network) if spec is not None else {}
        if wanted != known:
            changes.append(_Change(network, known, wanted))
    for change in changes:
        hostsfile.begin(layout, change.network)
    try:
        yield
    except BaseException:
        for change in changes:
            if change.known is not None:
                hostsfile.end(layout, change.network)
        raise
    for change in changes:
        _tell(layout, change, name)


@dataclass(frozen=True)
class _Change:
    """What becomes of a network's names; *known* is None when it is not certain what its containers were told."""

    network: str
    known: hostsfile.Names | None
    wanted: hostsfile.Names


def _tell(layout: Layout, change: _Change, name: str) -> None:
    """Have the network's file, and those of the containers that have one of their own, say who is on it now.

    Others than *name* have what they had, so of each only a few lines are looked at, however many containers there are.
    """
    hostsfile.write(layout, change.network, change.wanted)

    def about(names: hostsfile.Names) -> list[bytes]:
        lines = hostsfile.lines({key: each for key, each in names.items() if each[0] == name})
        return [line.encode() for line in lines]

    changed = False
    for other in sorted({each[0] for each in change.wanted.values()} - {name}):
        path = hostsfile.own_path(layout, other)
        if (content := files.read_bytes(path)) is None:
            continue
        if change.known is not None:
            wanted = [*hostsfile.active(content).difference(about(change.known)), *about(change.wanted)]
        elif (spec := containers.existing(layout, other)) is not None:
            wanted = composing.hosts(layout, spec, {change.network: change.wanted}).splitlines()
        else:
            continue
        changed = hostsfile.change(path, wanted, durable=False) or changed
    if changed:
        files.sync_file_system(layout.containers)
    hostsfile.end(layout, change.network)


def untold(layout: Layout) -> list[str]:
    """The networks whose containers may not know each other as they are called now."""
    return [network for network in definitions.names(layout) if is_altered(layout, network)]


def is_altered(layout: Layout, network: str) -> bool:
    """Whether the network's hosts file does not say what the specifications do."""
    known, wanted = hostsfile.find(layout, network), composing.names_asked_for(layout, network)
    is_new = not wanted and not hostsfile.path(layout, network).exists()
    return known != wanted and not is_new


def tell(layout: Layout, network: str) -> None:
    """Complete what was cut off."""
    _tell(layout, _Change(network, None, composing.names_asked_for(layout, network)), "")
