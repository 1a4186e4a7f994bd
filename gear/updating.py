"""Changing what an installed container is, and having it in force with the least that it takes (gear/effects.py).

What is live is so for a payload that runs, without a restart and without a drop-in that stays beside the unit: limits
are in its file, and those that are gone are not; Manager.apply_limits() has PID 1 put that in force.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gear import (
    allocation,
    composing,
    containers,
    effective,
    effects,
    files,
    host,
    install,
    live,
    networks,
    publishing,
    store,
    switching,
)
from gear.effects import LIVE, Change
from gear.errors import GearError
from gear.model import Layout
from gear.records import dataclass, field
from gear.spec import Spec
from gear.systemd import Manager


@dataclass(frozen=True)
class Before:
    """A container as it was before a change: its specification, the payload that runs with that, and its network."""

    spec: Spec
    pid: int | None = None  # None: none runs, or it is to be restarted anyway
    network: dict[str, Any] = field(default_factory=dict)
    held: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Updated:
    """What became of a container: its specification, what changed, and whether it has to be restarted for it."""

    spec: Spec
    changes: tuple[Change, ...]
    running: bool
    restart: bool


def look(manager: Manager, layout: Layout, name: str) -> Before | None:
    """The container *name* before a change; None for one that is not there, or can't be read."""
    spec = containers.existing(layout, name)
    if spec is None:
        return None
    if live.is_stale(manager, layout, name) or _is_drifted(layout, spec):
        return Before(spec)
    return Before(
        spec,
        live.payload(manager, layout, name),
        live.network_member(layout, name),
        frozenset(allocation.held(layout, name)),
    )


def _is_drifted(layout: Layout, spec: Spec) -> bool:
    """Whether its files are not those of its specification: what runs has not got all that a change would write."""
    try:
        return bool(composing.compare(composing.render(spec, composing.image_of(layout, spec), layout)))
    except GearError:
        return True


def follow(manager: Manager, layout: Layout, before: Before, spec: Spec) -> None:
    """Have the payload get at once what of *spec* is live, once PID 1 knows its unit; the caller holds the lock."""
    changes = effects.between(before.spec, spec)
    if not changes:
        return
    if effects.forgets_devices(before.spec.resources, spec.resources):
        group = manager.properties(spec.unit, "Service").get("ControlGroup")
        effective.forget_devices(str(group or ""))
    if any(change.path.startswith("resources.") for change in changes):
        manager.apply_limits(spec.unit)
    if before.pid is None or effects.worst(changes) != LIVE:
        return
    if any(change.path.startswith("network.") for change in changes):
        networks.bring_up(manager, spec)
        live.adjust(layout, spec.name, before.pid, before.network)
        allocation.give_back(set(before.held) - allocation.wanted(layout, spec.network))
    live.mark(layout, spec.name)


def catch_up(manager: Manager, layout: Layout, before: Before | None, spec: Spec) -> GearError | None:
    """follow() for what gear install has written, unless somebody has changed it again meanwhile.

    Returns why what runs did not get it: it is installed all the same, and the next start has it.
    """
    if before is None:
        return None
    with files.locked(layout.lock):
        if containers.existing(layout, spec.name) == spec:
            try:
                follow(manager, layout, before, spec)
            except GearError as error:
                return error
    return None


def update(manager: Manager, layout: Layout, name: str, change: Callable[[Spec], Spec]) -> Updated:
    """Make of the container *name* what *change* makes of its specification, and leave the rest of it as it is."""
    with files.locked(layout.lock), store.lease(layout):
        switching.finish(layout, name)
        spec = _installed(layout, name)
        before = look(manager, layout, name) or Before(spec)
        done = install.apply(layout, change(spec), composing.image_of(layout, spec))
        publishing.acquaint(manager, layout, [name])
        follow(manager, layout, before, done.spec)
    running = live.payload(manager, layout, name) is not None
    changes = tuple(effects.between(spec, done.spec))
    return Updated(done.spec, changes, running, live.is_stale(manager, layout, name))


def plan(
    layout: Layout, name: str, change: Callable[[Spec], Spec]
) -> tuple[tuple[Change, ...], dict[Path, tuple[bytes | None, bytes]]]:
    """What update() would change: members, and files as install.preview() has them.  Nothing is changed."""
    spec = _installed(layout, name)
    wanted = install.settled(layout, change(spec), spec)
    host.require_controllers(wanted)
    changed = install.preview(layout, wanted, composing.image_of(layout, spec))
    return tuple(effects.between(spec, wanted)), changed


def _installed(layout: Layout, name: str) -> Spec:
    spec = containers.get(layout, name)
    if containers.run_of(layout, name) is not None:
        raise GearError(
            f"{name} was run once and is not installed, so it can't be changed.",
            hint="gear install makes containers that can.",
        )
    return spec
