"""What gear was in the middle of when it was killed, and how it is finished or undone: for `gear clean`.

Only what takes more than removing files; the rest of what is left over is found in gear/remove.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gear import cloning, containers, files, pausing, snapshots, switching
from gear.model import NAME, Layout
from gear.systemd import Manager, booted

Found = tuple[str, Path, Callable[[], object]]


def changes(layout: Layout) -> Iterator[Found]:
    """What each is, where, and what finishes or undoes it.  The caller holds the lock, also when it calls that."""
    for name in switching.interrupted(layout):
        what = f"a restore of {name} that was interrupted, and is finished now"
        yield what, containers.switch_path(layout, name), partial(finish, layout, name)
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


def finish(layout: Layout, name: str) -> bool:
    """Finish a switch of *name*, and let PID 1 know of its unit; tells whether there was one."""
    if not switching.finish(layout, name):
        return False
    if booted():
        with Manager() as manager:
            unit = containers.unit_path(layout, name).name
            manager.load(unit)
            if manager.get(unit, "NeedDaemonReload", "b"):
                manager.reload()
    return True


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
    return found


def partials(layout: Layout) -> list[Path]:
    """Snapshots that did not come to be."""
    return [
        path
        for name in directories(layout)
        for path in sorted(snapshots.directory(layout, name).glob(f"{files.PARTIAL}*"))
    ]
