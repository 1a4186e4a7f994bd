"""Slices with budgets: what several containers may use together.

`slices/NAME.json` below gear's state says what was asked for, and the unit NAME.slice is rendered from it.  A slice
lies in the one that its name begins with (systemd.slice(5)): container-web.slice in container.slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gear import containers, effective, effects, files, groups, host, publishing, units
from gear.budget import Budget
from gear.errors import GearError, IntegrityError, NotFoundError, UsageError
from gear.findings import Finding
from gear.model import Layout
from gear.outline import slice_name
from gear.records import dataclass
from gear.spec import Spec
from gear.systemd import Manager, booted

VERSION = 1
TOP = "container.slice"


@dataclass(frozen=True)
class Made:
    """What became of a slice: its budget, whether it is new, and the members of the budget that changed."""

    name: str
    budget: Budget
    created: bool
    changes: tuple[str, ...]


def checked_name(text: str) -> str:
    """The full name of a slice that can be made; raises UsageError."""
    name = slice_name(text)
    if name in publishing.static_units():
        raise UsageError(f"{name} comes with gear.", hint=f"Its budget is changed by: systemctl edit {name}")
    if not name.startswith("container-"):
        raise UsageError(
            f"{name} would not be below {TOP}, where all containers are.",
            hint=f"For example container-{name}",
        )
    return name


def _path(layout: Layout, name: str) -> Path:
    return layout.slices / f"{name.removesuffix('.slice')}.json"


def find(layout: Layout, name: str) -> Budget | None:
    """The budget of the slice *name*; None for one that gear has not made.  Raises IntegrityError."""
    path = _path(layout, name)
    hint = f"rm {path}, and gear slice create {name} with all its options"
    try:
        document = files.read_json(path)
        if document is None:
            return None
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise ValueError(f"it is no slice of version {VERSION}")
        return Budget.read(document.get("resources"))
    except IntegrityError as error:
        error.hint = hint
        raise
    except UsageError as error:
        raise IntegrityError(f"{path} is damaged: {error.message}", hint=hint) from error
    except (TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is damaged: {error}.", hint=hint) from error


def made(layout: Layout) -> set[str]:
    """The slices that gear has made."""
    return {f"{path.stem}.slice" for path in layout.slices.glob("*.json")}


def names(layout: Layout) -> list[str]:
    """These, and those that come with gear."""
    return sorted(made(layout) | {name for name in publishing.static_units() if name.endswith(".slice")})


def users(layout: Layout, name: str) -> list[Spec]:
    """The containers in the slice *name*, and in those that lie in it."""
    specs = [containers.get(layout, container) for container in containers.names(layout)]
    stem = name.removesuffix(".slice")
    return [spec for spec in specs if spec.slice == name or spec.slice.startswith(f"{stem}-")]


def create(manager: Manager, layout: Layout, text: str, change: Callable[[Budget], Budget]) -> Made:
    """Make the slice *text* with what *change* makes of no budget, or of the one it has; at once for what runs."""
    name = checked_name(text)
    with files.locked(layout.lock):
        old = find(layout, name)
        wanted = change(old or Budget())
        if wanted.hugepages or wanted.oom_policy:
            raise UsageError(f"{name} can't have --hugepages or --oom-policy: they are for containers.")
        host.require_budget(name, wanted)
        host.require_devices(name, wanted)
        files.make_directory(layout.slices)
        document = {"version": VERSION, "name": name, "resources": wanted.to_mapping()}
        files.write_atomic(_path(layout, name), files.dump_json(document))
        if _is_altered(layout, name, wanted):
            publishing.publish_static_units(layout)
            _write_unit(layout, name, wanted)
            if effects.forgets_devices(old or Budget(), wanted):
                effective.forget_devices(groups.slice_path(name))
            # PID 1 may have made the slice itself, for a container that was in it before it had a budget.
            manager.reload()
            manager.apply_limits(name)
    before, after = (old or Budget()).to_mapping(), wanted.to_mapping()
    changes = [member for member in sorted({*before, *after}) if before.get(member) != after.get(member)]
    return Made(name, wanted, old is None, tuple(changes))


def _is_altered(layout: Layout, name: str, budget: Budget) -> bool:
    return files.read_bytes(layout.units / name) != units.render_slice(name, budget, layout)


def _write_unit(layout: Layout, name: str, budget: Budget) -> None:
    files.make_directory(layout.units)
    files.write_atomic(layout.units / name, units.render_slice(name, budget, layout))


def check(layout: Layout) -> Iterator[Finding]:
    """The faults of slices; the caller holds the lock."""
    for path in sorted(layout.slices.glob("*.json")):
        name = f"{path.stem}.slice"
        try:
            budget = find(layout, checked_name(name))
        except GearError as error:
            yield Finding(path, f"can't be read: {error.message}", hint=error.hint or "")
            continue
        if budget is not None and _is_altered(layout, name, budget):
            yield Finding(
                layout.units / name,
                "is not what its slice asks for",
                mend=partial(_mend, layout, name, budget),
            )


def _mend(layout: Layout, name: str, budget: Budget) -> None:
    _write_unit(layout, name, budget)
    if booted():
        with Manager() as manager:
            manager.reload()


def remove(manager: Manager, layout: Layout, text: str) -> bool:
    """Remove the slice *text*; tells whether there was one.  Raises GearError while anything is in it."""
    name = checked_name(text)
    with files.locked(layout.lock):
        if found := users(layout, name):
            raise GearError(
                f"The slice {name} is in use by {', '.join(spec.name for spec in found)}.",
                hint=f"gear update {found[0].name} --slice {TOP.removesuffix('.slice')}",
            )
        if not _path(layout, name).exists() and not (layout.units / name).exists():
            return False
        if groups.processes(groups.slice_path(name)):
            raise GearError(f"The slice {name} is in use by other units.", hint=f"systemctl status {name}")
        manager.stop([name])
        files.remove_file(layout.units / name)
        files.remove_file(_path(layout, name))
        manager.reload()
        return True


def summary(layout: Layout, name: str) -> dict[str, Any]:
    """What `gear slice list` says of a slice."""
    budget = find(layout, name)
    return {
        "name": name,
        "made": budget is not None,
        "resources": {} if budget is None else budget.to_mapping(),
        "used": effective.usage(groups.slice_path(name)),
        "containers": [spec.name for spec in users(layout, name)],
    }


_IN_FORCE = (
    "ActiveState",
    "FragmentPath",
    "DropInPaths",
    "ControlGroup",
    "MemoryMin",
    "MemoryLow",
    "MemoryHigh",
    "MemoryMax",
    "MemorySwapMax",
    "CPUWeight",
    "CPUQuotaPerSecUSec",
    "IOWeight",
    "TasksMax",
)


def details(manager: Manager, layout: Layout, text: str) -> dict[str, Any]:
    """What `gear slice inspect` says of a slice; raises NotFoundError."""
    name = slice_name(text)
    if name not in names(layout):
        raise NotFoundError(f"There is no slice {name}.", hint="gear slice list shows them.")
    values = manager.properties(name) | manager.properties(name, "Slice")
    budget = find(layout, name)
    return {
        "slice": summary(layout, name),
        "systemd": {key: values[key] for key in _IN_FORCE if key in values},
        "kernel": effective.limits(groups.slice_path(name)),
        "altered": budget is not None and _is_altered(layout, name, budget),
    }
