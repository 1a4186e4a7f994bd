"""Checking networks, on disk and in the kernel, and mending them while containers run on.

Not what is looked for (gear/network_check.py, gear/network_state.py): the order of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gear import (
    connecting,
    containers,
    definitions,
    files,
    hindrances,
    leftovers,
    live,
    network_check,
    network_state,
    network_strays,
    process,
    publishing,
    records,
    units,
)
from gear.definition import Definition
from gear.errors import GearError
from gear.findings import Finding
from gear.mending import Outcome, treat
from gear.model import Layout
from gear.systemd import Manager


def check(
    manager: Manager, layout: Layout, names: Sequence[str] = (), *, repair: bool = False
) -> Iterator[Outcome]:
    """Everything that is wrong with the networks *names*, or with all and with what is left of others; with *repair*
    mended right away where that can be done.  Raises NotFoundError for a name that is no network's."""
    for name in names:
        definitions.get(layout, name)
    if not layout.state.is_dir():
        return
    with files.locked(layout.lock):
        yield from _records(manager, layout, names, repair=repair)
        yield from check_kernel(manager, layout, names, repair=repair)
        for item in hindrances.of_networks(layout, list(names) or definitions.names(layout)):
            told = Finding(str(item.dropper), item.what, damage=False, hint=item.hint, foreign=True)
            yield Outcome(told, False)


def check_kernel(
    manager: Manager, layout: Layout, names: Sequence[str] = (), *, repair: bool = False
) -> Iterator[Outcome]:
    """As check(), but only what the kernel has beside what is on disk.  The caller holds the lock."""
    for name in names or definitions.names(layout):
        try:
            definition = definitions.get(layout, name)
        except GearError:  # has been told
            continue
        mend = _mender(manager, layout, definition)
        for finding in network_state.check(manager, layout, definition):
            yield treat(_mendable(finding, mend), repair=repair)
    if not names:
        for finding in network_strays.strays(manager, layout):
            yield treat(finding, repair=repair)


def _mendable(finding: Finding, mend: Callable[[], None]) -> Finding:
    # What a person has to do is not to be tried.
    return finding if finding.hint else records.replace(finding, mend=mend)


def _records(manager: Manager, layout: Layout, names: Sequence[str], *, repair: bool) -> Iterator[Outcome]:
    """First what is on disk, since that is what the kernel's state is made of."""
    specs = {}
    for name in containers.names(layout):
        spec = containers.existing(layout, name)
        if spec is not None and (not names or set(names) & set(spec.network.networks)):
            specs[name] = spec
    changed = False
    for finding in network_check.check(layout, specs, names):
        outcome = treat(finding, repair=repair)
        changed = changed or outcome.mended
        yield outcome
    if changed:
        manager.reload()
    for left in leftovers.of_networks(layout, set(containers.names(layout))) if not names else ():
        yield treat(
            Finding(left.path, f"is left over: {left.what}", damage=False, mend=left.remove), repair=repair
        )


def _mender(manager: Manager, layout: Layout, definition: Definition) -> Callable[[], None]:
    """What mends a network, whatever is wrong with it; done once for all that is."""
    results: list[GearError | None] = []

    def mend() -> None:
        if not results:
            try:
                _mend(manager, layout, definition)
                results.append(None)
            except GearError as error:
                results.append(error)
        if (failed := results[0]) is not None:
            raise failed

    return mend


def _mend(manager: Manager, layout: Layout, definition: Definition) -> None:
    """Make the network anew with its containers running: as it is, and if that is not enough from the beginning."""
    every = network_state.members(manager, layout)
    on = [
        member.name
        for member in every.values()
        if any(item["network"] == definition.name for item in member.wanted.get("interfaces", ()))
    ]
    for name in on:
        if every[name].settled and not every[name].runs:
            connecting.unpublish(layout, name)
    if (
        not any(every[name].runs for name in on)
        and manager.get(definition.unit, "ActiveState", "s") != "active"
    ):
        _take_down(layout, definition)
        return
    # What this version of gear compares with is what the same version makes.
    publishing.publish_helper(layout)
    # From the beginning only those come back whose start.json says what they run with.
    doubtful = sorted(name for name, member in every.items() if member.runs and not member.settled)
    for work in (manager.reload_or_restart,) if doubtful else (manager.reload_or_restart, manager.restart):
        refused: list[GearError] = []
        _make(manager, definition, work)
        for name in on:
            pid = live.payload(manager, layout, name) if every[name].settled and every[name].runs else None
            if pid is not None:
                # Interfaces that somebody has deleted; there is nothing to change for the others.
                try:
                    live.adjust(layout, name, pid, live.network_member(layout, name))
                except GearError as error:  # by what is inside, which is no reason to leave out others
                    refused.append(error)
        _make(manager, definition, manager.reload_or_restart)
        left = [item for item in network_state.check(manager, layout, definition) if not item.hint]
        if not left:
            break
    if refused:
        raise refused[0]
    if not left:
        return
    if doubtful:
        raise GearError(
            f"{definition.unit} was reloaded, and still {left[0]}; it is not restarted, as {', '.join(doubtful)} may "
            "lose their network by that.",
            hint=f"gear restart {' '.join(doubtful)}",
        )
    raise GearError(
        f"{definition.unit} was restarted, and still {left[0]}.", hint=f"journalctl -u {definition.unit}"
    )


def _make(manager: Manager, definition: Definition, work: Callable[[list[str]], dict[str, str]]) -> None:
    # Somebody asks for it, so how often it was made before does not count.
    manager.reset_failed(definition.unit)
    result = work([definition.unit])[definition.unit]
    if result != "done":
        raise GearError(
            f"{definition.unit} could not make the network anew: {result.rstrip('.')}.",
            hint=f"journalctl -u {definition.unit}",
        )


def _take_down(layout: Layout, definition: Definition) -> None:
    """Remove what an interrupted end of the network has left."""
    program = f"{units.helper_directory(layout)}/network"
    process.call([*units.INTERPRETER, program, "down", str(layout.networks / definition.name)])
