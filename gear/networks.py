"""Networks that containers share: made, shown, changed and removed, and containers connected to them.

A network's truth is its definition (gear/definition.py); its unit, gear-network@NAME.service, makes the bridge and the
rules when the first container on it starts.  What a change means for containers is rendered and compared like
everything else: each gets its files anew, and one that runs is named if it has to be restarted.
"""

from __future__ import annotations

import os
from typing import Any

from gear import (
    allocation,
    composing,
    connecting,
    containers,
    definitions,
    files,
    hostsfile,
    install,
    journal,
    lifecycle,
    live,
    neighbours,
    publishing,
    records,
    store,
)
from gear.definition import Definition
from gear.errors import GearError, UsageError
from gear.inet import unique_aliases
from gear.model import Layout
from gear.network import BRIDGE, NONE, Interface, Network, network_name, unit_name
from gear.network_plan import plan, users
from gear.records import dataclass
from gear.spec import Spec
from gear.systemd import Manager


@dataclass(frozen=True)
class Created:
    """What was done: *action* is created, changed or unchanged; *changes* are members of the definition, and *started*
    whether it had failed and containers that run needed it."""

    definition: Definition
    action: str
    changes: tuple[str, ...]
    started: bool
    containers: tuple[str, ...]
    restart_needed: tuple[str, ...]


def create(manager: Manager, layout: Layout, definition: Definition) -> Created:
    """Make the network *definition*, or what there is of that name into it.

    One that is up, or failed while containers on it run, is made anew; they stay connected to it, and those with other
    addresses need a restart.
    """
    with files.locked(layout.lock), store.lease(layout):
        planned = plan(layout, definition)
        old = definitions.find(layout, definition.name)
        publishing.publish_helper(layout)
        connecting.publish(layout, definition)
        for spec in planned.containers:
            install.apply(layout, spec, composing.image_of(layout, spec))
        if neighbours.is_altered(layout, definition.name):
            # Of an earlier run that was cut off.
            neighbours.tell(layout, definition.name)
    names = [spec.name for spec in planned.containers]
    _acquaint(manager, layout, definition.unit, names)
    failed = _has_failed(manager, layout, definition)
    if failed or (is_up(manager, definition.name) and _is_stale(manager, layout, definition.name)):
        # Somebody asks for it, so how often it was made before does not count.
        manager.reset_failed(definition.unit)
        result = manager.restart([definition.unit])[definition.unit]
        if result != "done":
            raise GearError(
                f"The network {definition.name} is defined, and could not be made anew: "
                f"{_why(manager, definition.unit, result)}.",
                hint=f"journalctl -u {definition.unit}",
            )
    action = "created" if old is None else "changed" if planned.files or names else "unchanged"
    before, after = {} if old is None else old.to_mapping(), definition.to_mapping()
    changes = tuple(member for member in after if member in before and before[member] != after[member])
    return Created(definition, action, changes, failed, tuple(names), tuple(_stale(manager, layout, names)))


def _has_failed(manager: Manager, layout: Layout, definition: Definition) -> bool:
    """Whether containers run on the network though it could not be made."""
    return manager.get(definition.unit, "ActiveState", "s") == "failed" and any(
        manager.get(spec.unit, "ActiveState", "s") == "active" for spec in users(layout, definition.name)
    )


def _why(manager: Manager, unit: str, job: str) -> str:
    """What a network's unit said last when it failed, or systemd's word for it: the result *job*."""
    invocation = bytes(manager.properties(unit).get("InvocationID") or b"").hex() or None
    return journal.last_words(unit, invocation=invocation) or job.rstrip(".")


def _acquaint(manager: Manager, layout: Layout, unit: str, names: list[str]) -> None:
    """Make PID 1 know the network's unit and those of the containers *names*."""
    publishing.acquaint(manager, layout, names)
    manager.load(unit)
    if manager.get(unit, "LoadState", "s") == "not-found" or manager.get(unit, "NeedDaemonReload", "b"):
        manager.reload()


def _stale(manager: Manager, layout: Layout, names: list[str]) -> list[str]:
    """Which of the containers run with what was before."""
    found = []
    for name in names:
        spec = containers.get(layout, name)
        if containers.is_stale(spec, layout, manager.properties(spec.unit, "Service")):
            found.append(name)
    return found


def is_up(manager: Manager, name: str) -> bool:
    """Whether the network is there on the host."""
    return bool(manager.get(unit_name(name), "ActiveState", "s") == "active")


def _is_stale(manager: Manager, layout: Layout, name: str) -> bool:
    """Whether a network that is up was made of an earlier definition."""
    made = float(manager.get(unit_name(name), "ActiveEnterTimestamp", "t")) / 1e6
    return os.stat(definitions.path(layout, name)).st_mtime > made


def remove(manager: Manager, layout: Layout, name: str) -> bool:
    """Remove the network *name*; tells whether there was one.  Raises GearError while containers are on it."""
    network_name(name)
    with files.locked(layout.lock):
        directory, unit = layout.networks / name, connecting.unit_path(layout, name)
        found = {spec.name for spec in users(layout, name)} | _lingering(layout, name)
        if found:
            names = sorted(found)
            raise GearError(
                f"The network {name} is in use by {', '.join(names)}.",
                hint=f"gear delete {names[0]}"
                if containers.run_of(layout, names[0]) is not None
                else f"gear network disconnect {name} {names[0]}",
            )
        if not directory.exists() and not unit.exists():
            return False
        result = manager.stop([unit.name])[unit.name]
        if result != "done" and is_up(manager, name):
            raise GearError(f"The network {name} could not be taken down: {result.rstrip('.')}.")
        manager.reset_failed(unit.name)
        # The directory first, which decides: a unit without it is left over.
        files.remove_tree(directory)
        files.remove_durably(unit)
        return True


def _lingering(layout: Layout, name: str) -> set[str]:
    """Containers that run on the network still, though they are not to be on it any more."""
    owners = {item.name for item in allocation.addresses(layout, name).values()}
    specs = [containers.find(layout, owner) for owner in sorted(owners)]
    return {spec.name for spec in specs if spec is not None and lifecycle.runs_with_earlier(layout, spec)}


@dataclass(frozen=True)
class Reconnected:
    """What became of a container: its specification, whether it has to be restarted for it, and the containers whose
    links to it were made anew."""

    spec: Spec
    restart: bool
    followed: tuple[str, ...]


def connect(manager: Manager, layout: Layout, name: str, asked: Interface) -> Reconnected:
    """Put the container *name* on one more network, or give it another address there; at once if it runs."""

    def more(network: Network) -> Network:
        if network.mode not in (NONE, BRIDGE):
            raise UsageError(f"{name} can't be connected to networks: it has --net {network.mode}.")
        have = next((item for item in network.interfaces if item.network == asked.network), None)
        if have is None:
            return records.replace(network, mode=BRIDGE, interfaces=(*network.interfaces, asked))
        # With another address of one family it moves; that of the other family stays.
        moved = records.replace(
            have,
            ip=asked.ip or have.ip,
            ip6=asked.ip6 or have.ip6,
            mac=asked.mac or have.mac,
            aliases=unique_aliases((*have.aliases, *asked.aliases)),
        )
        if moved == have:
            raise UsageError(f"{name} is on the network {asked.network} already.")
        others = (moved if item is have else item for item in network.interfaces)
        return records.replace(network, interfaces=tuple(others))

    return _reconnect(manager, layout, name, more)


def disconnect(manager: Manager, layout: Layout, name: str, network: str) -> Reconnected:
    """Take the container *name* off a network; at once if it runs."""

    def less(found: Network) -> Network:
        rest = tuple(item for item in found.interfaces if item.network != network)
        if rest == found.interfaces:
            raise UsageError(f"{name} is not on a network {network}.")
        if found.ports and not rest:
            raise UsageError(
                f"{name} publishes ports, so it can't leave its last network.",
                hint="Install it again without -p, or connect it to another network first.",
            )
        if found.limits.shapes and not rest:
            raise UsageError(
                f"{name} has limits of its traffic, so it can't leave its last network.",
                hint="Install it again without --net-rate, --net-priority and --net-connections.",
            )
        if found.links and not rest:
            raise UsageError(
                f"{name} has links, so it can't leave its last network.",
                hint=f"gear link --rm {name}",
            )
        return records.replace(found, mode=BRIDGE if rest else NONE, interfaces=rest)

    return _reconnect(manager, layout, name, less)


def _reconnect(manager: Manager, layout: Layout, name: str, change: Any) -> Reconnected:
    with files.locked(layout.lock), store.lease(layout):
        spec = containers.get(layout, name)
        if containers.run_of(layout, name) is not None:
            raise GearError(
                f"{name} was run once and is not installed, so its networks can't be changed.",
                hint=f"gear delete {name}, and gear run with another --net",
            )
        # What runs with other files than there are gets this with the rest, by a restart.
        pid = None if live.is_stale(manager, layout, name) else live.payload(manager, layout, name)
        before, had = live.network_member(layout, name), allocation.held(layout, name)
        wanted = records.replace(spec, network=change(spec.network))
        done = install.apply(layout, wanted, composing.image_of(layout, spec))
        publishing.acquaint(manager, layout, [name])
        if pid is not None:
            bring_up(manager, done.spec)
            live.adjust(layout, name, pid, before)
            live.mark(layout, name)
            allocation.give_back(had - allocation.wanted(layout, done.spec.network))
        followed = live.follow(manager, layout, name)
    return Reconnected(done.spec, live.is_stale(manager, layout, name), tuple(followed))


def bring_up(manager: Manager, spec: Spec) -> None:
    """Start the networks of a container that runs and may be new on one."""
    for unit, result in manager.start([unit_name(name) for name in spec.network.networks]).items():
        if result != "done":
            raise GearError(
                f"{unit} could not be started: {_why(manager, unit, result)}.", hint=f"journalctl -u {unit}"
            )


def summary(manager: Manager, layout: Layout, name: str) -> dict[str, Any]:
    """What `gear network list` says of a network."""
    definition = definitions.get(layout, name)
    return {
        "name": name,
        "driver": definition.driver,
        "interface": definition.device,
        "subnets": [str(item.subnet) for item in definition.subnets],
        "internal": definition.internal,
        "isolate": definition.isolate,
        "up": is_up(manager, name),
        "containers": [spec.name for spec in users(layout, name)],
    }


def details(manager: Manager, layout: Layout, name: str) -> dict[str, Any]:
    """What `gear network inspect` says of a network."""
    definition = definitions.get(layout, name)
    up = is_up(manager, name)
    altered = [str(path) for path in composing.compare(connecting.rendered(layout, definition))]
    if neighbours.is_altered(layout, name):
        altered.append(str(hostsfile.path(layout, name)))
    return {
        "definition": definition.to_mapping(),
        "unit": definition.unit,
        "up": up,
        "changed": up and _is_stale(manager, layout, name),
        "altered": altered,
        "containers": [
            {
                "name": spec.name,
                "interface": item.interface,
                "ip": item.ip,
                "ip6": item.ip6,
                "mac": item.mac,
                "aliases": list(item.aliases),
            }
            for spec in users(layout, name)
            for item in spec.network.interfaces
            if item.network == name
        ],
    }
