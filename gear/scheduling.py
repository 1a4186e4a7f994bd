"""Containers that are upgraded by a timer: making it, removing it, what there is to say of it.

What its units say is in gear/schedule.py.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gear import boot, containers, files, process, schedule
from gear.errors import GearError, IntegrityError, UsageError
from gear.findings import Finding
from gear.model import Layout
from gear.schedule import Schedule
from gear.systemd import Manager

# Where systemd keeps when a timer with Persistent= was last due (systemd.timer(5)).
_STAMPS = Path("/var/lib/systemd/timers")
# root's, and `staff`, which Debian lets write to /usr/local.
_TRUSTED_GROUPS = (0, 50)
# Where systemd.exec(5) looks for programs whose path is not given.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


def path(layout: Layout, name: str) -> Path:
    """Where it is kept when *name* is upgraded."""
    return layout.containers / name / "schedule.json"


def find(layout: Layout, name: str) -> Schedule | None:
    """When *name* is upgraded; None for never by itself.  Raises IntegrityError."""
    place = path(layout, name)
    document = files.read_json(place)
    if document is None:
        return None
    try:
        return Schedule.read(document)
    except (KeyError, TypeError, ValueError, GearError) as error:
        raise IntegrityError(
            f"{place} is damaged: {str(error).rstrip('.')}.",
            hint=f"gear upgrade {name} --unschedule, and --schedule once more",
        ) from error


def program() -> str:
    """The path by which a unit can run this gear: as it was called, or where systemd looks for programs.

    What is in a checkout or a virtual environment may go away; then the unit fails, which systemd shows, and fsck
    tells why.
    """
    import shutil

    called = shutil.which(sys.argv[0])
    if called is None or os.path.basename(called) != "gear":
        called = shutil.which("gear", path=_PATH)
    if called is None:
        raise UsageError(
            "No unit can run gear: it is neither installed where systemd looks for programs nor was it called as one.",
            hint="Call it by the path of the program gear.",
        )
    found = schedule.program(os.path.realpath(called))
    # With the program come its modules and the interpreter.
    for part in (Path(found), Path(__file__).resolve(), Path(sys.executable).resolve()):
        for place in (part, *part.parents):
            _require_ours(place, found)
    return found


def _require_ours(place: Path, what: str) -> None:
    status = place.stat()
    writers = 0o002 if status.st_gid in _TRUSTED_GROUPS else 0o022
    shared = status.st_mode & writers and not (place.is_dir() and status.st_mode & stat.S_ISVTX)
    if shared or status.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"No unit can run {what} as root: {place} can be changed by others.",
            hint="Install gear where only root may write.",
        )


def require_calendar(text: str) -> None:
    """Raise UsageError unless systemd takes *text* for a calendar event."""
    try:
        process.output(["systemd-analyze", "calendar", "--", schedule.calendar(text)])
    except UsageError:
        raise
    except GearError as error:
        raise UsageError(
            f"systemd does not take {text!r} for a time: {error.message.rpartition(': ')[2]}",
            hint="systemd.time(7) says what it does take; systemd-analyze calendar tries it.",
        ) from error


def rendered(layout: Layout, name: str, wanted: Schedule | None) -> dict[Path, bytes]:
    """The unit files of a schedule; none without one."""
    if wanted is None:
        return {}
    units = schedule.render(name, wanted, layout, [str(boot.DIRECTORY)])
    return {layout.units / unit: content for unit, content in units.items()}


def unit_files(layout: Layout, name: str) -> list[Path]:
    """The unit files of a schedule that there are of *name*, wanted or not."""
    found = [layout.units / unit for unit in (schedule.timer(name), schedule.service(name))]
    return [file for file in found if os.path.lexists(file)]


def put(manager: Manager, layout: Layout, name: str, wanted: Schedule) -> None:
    """Have *name* upgraded as *wanted*, from now on and at every boot."""
    require_calendar(wanted.calendar)
    with files.locked(layout.lock):
        containers.get(layout, name)
        if containers.run_of(layout, name) is not None:
            raise GearError(f"{name} was run once and is not installed, so it is not upgraded.")
        files.write_atomic(path(layout, name), files.dump_json(wanted.to_mapping()), 0o600)
        for file, content in rendered(layout, name, wanted).items():
            if files.read_bytes(file) != content:
                files.write_atomic(file, content)
        boot.enable(layout, schedule.timer(name))
    manager.reload()
    # A timer that is active already goes by what it had when it was started.
    result = manager.restart([schedule.timer(name)])[schedule.timer(name)]
    if result != "done":
        raise GearError(f"systemd does not start {schedule.timer(name)}: {result.rstrip('.')}.")


def remove(manager: Manager, layout: Layout, name: str) -> bool:
    """Have *name* upgraded by hand only; tells whether it was otherwise.  An upgrade that is under way goes on."""
    units = [schedule.timer(name), schedule.service(name)]
    known = path(layout, name).exists() or bool(unit_files(layout, name))
    if known:
        manager.stop(units[:1])
        for unit in units:
            manager.reset_failed(unit)
    boot.disable(units[0])
    for file in [*unit_files(layout, name), path(layout, name), _STAMPS / f"stamp-{units[0]}"]:
        files.remove_file(file)
    if known:
        manager.reload()
    return known


def state(manager: Manager, layout: Layout, name: str) -> dict[str, Any] | None:
    """When *name* is upgraded next, and how that ended last: the member `schedule` of `gear status --output json`."""
    wanted = find(layout, name)
    if wanted is None:
        return None
    timer = manager.properties(schedule.timer(name), "Timer")
    service = manager.properties(schedule.service(name), "Service")
    ran = int(service.get("ExecMainExitTimestamp") or 0)
    active = manager.get(schedule.timer(name), "ActiveState", "s") == "active"
    return {
        "calendar": wanted.calendar,
        "delay": wanted.delay,
        "next": int(timer.get("NextElapseUSecRealtime") or 0) / 1e6 or None if active else None,
        "last": ran / 1e6 or None,
        "result": str(service.get("Result") or "") if ran else None,
        "active": active,
    }


def check(layout: Layout, name: str) -> Iterator[Finding]:
    """What is wrong with the schedule of *name*.  The caller holds the lock."""
    from gear import composing

    try:
        wanted = find(layout, name)
    except GearError as error:
        place = path(layout, name)
        yield Finding(place, error.message.removeprefix(f"{place} "), hint=error.hint or "")
        return
    expected = rendered(layout, name, wanted)
    for file, (found, content) in composing.compare(expected).items():

        def mend(file: Path = file, content: bytes = content) -> None:
            files.write_atomic(file, content)

        what = "is missing" if found is None else "is not what schedule.json renders to"
        yield Finding(file, what, mend=mend)
    for file in unit_files(layout, name):
        if file not in expected:
            yield Finding(
                file,
                f"upgrades {name}, which has no schedule",
                damage=False,
                hint=f"gear upgrade {name} --unschedule",
            )
    if wanted is not None:
        if not os.access(wanted.program, os.X_OK):
            yield Finding(
                Path(wanted.program),
                f"is no program any more, and upgrades {name}",
                hint=f"gear upgrade {name} --schedule '{wanted.calendar}'",
            )
        link = boot.link(schedule.timer(name))
        if not os.path.lexists(link):
            yield Finding(
                link, "is missing: the timer does not start at boot",
                mend=lambda: boot.enable(layout, schedule.timer(name)),
            )  # fmt: skip
