"""What gear was in the middle of when it was killed, and how it is finished or undone: for `gear clean`.

Only what takes more than removing files; the rest of what is left over is found in gear/remove.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from gear import cloning, composing, containers, files, pausing, replacing, snapshots, switching
from gear.errors import GearError
from gear.model import NAME, Layout
from gear.systemd import Manager, booted

Found = tuple[str, Path, Callable[[], object]]


def changes(layout: Layout) -> Iterator[Found]:
    """What each is, where, and what finishes or undoes it.  The caller holds the lock, also when it calls that."""
    for name in switching.interrupted(layout):
        what = f"a restore of {name} that was interrupted, and is finished now"
        yield what, containers.switch_path(layout, name), partial(finish, layout, name)
    for name in _with_partials(layout):
        for path, staged in _changed(layout, name)[1].items():
            what = f"a change of {name} that was interrupted, and is finished now: {path.name}"
            yield what, staged, partial(_finish_change, layout, name)
    for name in directories(layout):
        if pausing.abandoned(layout, name) and booted():
            what = "a mark of a pause that was interrupted"
            yield what, pausing.mark(layout, name), partial(_thaw, layout, name)
        if cloning.abandoned(layout, name):
            yield (
                "a clone that was interrupted",
                layout.containers / name,
                partial(cloning.forget, layout, name),
            )


_Changes = Mapping[Path, tuple[bytes | None, bytes]]


def _changed(layout: Layout, name: str) -> tuple[_Changes, Mapping[Path, Path]]:
    """The files of a container that are not as its specification says, and those of them that an install has made
    ready and not put in place."""
    spec = containers.existing(layout, name)
    if spec is None:
        return {}, {}
    try:
        altered = composing.compare(composing.render(spec, composing.image_of(layout, spec), layout))
    except GearError:  # which is a fault of its own
        return {}, {}
    return altered, replacing.staged(altered)


def _with_partials(layout: Layout) -> list[str]:
    """The containers that have files with partial names: few, and only these are rendered."""
    units = [path.name for path in layout.units.glob(f"{files.PARTIAL}ctr-*")]
    return [
        name
        for name in containers.names(layout)
        if any(f"-ctr-{name}" in unit for unit in units)
        or any((layout.containers / name).glob(f"{files.PARTIAL}*"))
    ]


def _finish_change(layout: Layout, name: str) -> None:
    altered, staged = _changed(layout, name)
    if staged:
        replacing.finish(altered)
        _acquaint(layout, name)


def finish(layout: Layout, name: str) -> bool:
    """Finish a switch of *name*, and let PID 1 know of its unit; tells whether there was one."""
    if not switching.finish(layout, name):
        return False
    _acquaint(layout, name)
    return True


def _acquaint(layout: Layout, name: str) -> None:
    if booted():
        with Manager() as manager:
            unit = containers.unit_path(layout, name).name
            manager.load(unit)
            if manager.get(unit, "NeedDaemonReload", "b"):
                manager.reload()


def _thaw(layout: Layout, name: str) -> None:
    with Manager() as manager:
        pausing.recover(manager, layout, name)


def directories(layout: Layout) -> list[str]:
    """The names of all containers, finished or not."""
    with files.explained(f"read {layout.containers}"):
        try:
            return sorted(path.name for path in layout.containers.iterdir() if NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []


def claimed(layout: Layout) -> set[Path]:
    """What looks left over, but belongs to what changes() finds."""
    found = {layout.containers / name for name in directories(layout) if cloning.abandoned(layout, name)}
    for name in switching.interrupted(layout):
        switch = switching.read(layout, name)
        for exchange in switch.exchanges if switch else ():
            found |= {exchange.staged, exchange.old}
    for name in _with_partials(layout):
        found |= set(_changed(layout, name)[1].values())
    return found


def partials(layout: Layout) -> list[Path]:
    """Snapshots that did not come to be."""
    return [
        path
        for name in directories(layout)
        for path in sorted(snapshots.directory(layout, name).glob(f"{files.PARTIAL}*"))
    ]
