"""Who uses gear's own objects, and what a change of one means for those who do: secrets, configs, environment sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gear import composing, containers, files, install, journal, objects, publishing, store, switching
from gear.errors import GearError
from gear.model import Layout
from gear.records import dataclass
from gear.spec import Spec
from gear.supplies import CONFIG, ENV_SET, KINDS, SECRET
from gear.systemd import Manager

# What gives a container one.
_OPTIONS = {SECRET: "secret", CONFIG: "config", ENV_SET: "env-set"}


@dataclass(frozen=True)
class Effect:
    """What a change has come to for one container: `none` for one that does not run or has it already, `reloaded`,
    `restart` when it has to be restarted to get it, or `end` when it was run once and goes on without; *error* is why
    it could not get further."""

    name: str
    outcome: str
    error: GearError | None = None


def users(layout: Layout, kind: str, name: str) -> list[str]:
    """The containers that have the object *name* of *kind*, sorted."""
    found = []
    for container in containers.names(layout):
        spec = containers.existing(layout, container)
        if spec is not None and name in spec.supplies.names(kind):
            found.append(container)
    return found


def change(manager: Manager, layout: Layout, kind: str, name: str, write: Callable[[], Any]) -> list[Effect]:
    """Have *write* change the object *name*, and let all containers have it that use it.

    Their files are rendered anew.  One that runs gets configs at once, and is told if it has a reload signal; for
    everything else it has to be restarted, which is not done here.  If gear is killed in the middle, the same once
    more does the rest.
    """
    with files.locked(layout.lock), store.lease(layout):
        write()
        effects = {user: Effect(user, "none") for user in users(layout, kind, name)}
        for user in effects if kind != SECRET else ():
            try:
                switching.finish(layout, user)
                wanted = containers.get(layout, user)
                install.apply(layout, wanted, composing.image_of(layout, wanted))
            except GearError as error:
                effects[user] = Effect(user, "restart", error)
    changed = [user for user, effect in effects.items() if effect.error is None]
    installed = [user for user in changed if containers.run_of(layout, user) is None]
    if kind != SECRET and installed:
        publishing.acquaint(manager, layout, installed)
    for user in changed:
        spec = containers.existing(layout, user)
        if spec is not None:  # else it has been deleted meanwhile
            effects[user] = _effect(manager, layout, spec, kind)
    return list(effects.values())


def _effect(manager: Manager, layout: Layout, spec: Spec, kind: str) -> Effect:
    if not containers.is_stale(spec, layout, _service(manager, layout, spec)):
        return Effect(spec.name, "none")
    if kind == CONFIG and spec.supplies.reload_signal is not None:
        try:
            reload(manager, layout, spec.name)
        except GearError as error:
            return Effect(spec.name, "restart", error)
        if not containers.is_stale(spec, layout, manager.properties(spec.unit, "Service")):
            return Effect(spec.name, "reloaded")
    return Effect(spec.name, "restart" if containers.run_of(layout, spec.name) is None else "end")


def _service(manager: Manager, layout: Layout, spec: Spec) -> dict[str, Any]:
    unit = containers.unit_of(layout, spec.name)
    if unit == spec.unit:
        return manager.properties(unit, "Service")
    # A scope has no main process to ask about; it began with its first one.
    if manager.get(unit, "ActiveState", "s") != "active":
        return {}
    return {"MainPID": 1, "ExecMainStartTimestamp": manager.get(unit, "ActiveEnterTimestamp", "t")}


def reload(manager: Manager, layout: Layout, name: str) -> None:
    """Have the payload of *name* read its configs again; raises GearError when it has no way to, or does not run."""
    spec = containers.get(layout, name)
    if spec.supplies.reload_signal is None or containers.unit_of(layout, name) != spec.unit:
        raise GearError(
            f"{name} has no reload signal, so nothing tells its program to read its configs again.",
            hint=f"gear restart {name}, or install it with --reload-signal",
        )
    if manager.get(spec.unit, "ActiveState", "s") != "active":
        raise GearError(f"{name} does not run, so there is nothing to reload.", hint=f"gear start {name}")
    result = manager.reload_units([spec.unit])[spec.unit]
    if result != "done":
        said = journal.last_words(spec.unit, namespace=spec.logging.namespace)
        raise GearError(
            f"{name} could not be reloaded: {said or result}".rstrip(".") + ".", hint=f"gear restart {name}"
        )


def remove(layout: Layout, kind: str, name: str) -> None:
    """Remove the object *name*; raises GearError while a container has it, and NotFoundError."""
    with files.locked(layout.lock):
        objects.require(layout, kind, name)
        if found := users(layout, kind, name):
            raise GearError(
                f"The {KINDS[kind][0]} {name} is in use by {', '.join(found)}.",
                hint=f"gear update {found[0]} --unset {_OPTIONS[kind]}={name}",
            )
        objects.remove(layout, kind, name)
