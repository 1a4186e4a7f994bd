"""Control groups of the containers of this command line: a scope of systemd's, or directories of our own.

A group is described by what is kept of it in state.json:
    {"scope": "prefix-ID.scope"}          when systemd made it
    {"unified": DIR}                      its directory of version 2, if there is one
    {"controllers": {NAME: DIR, ...}}     its directories of version 1
An empty description is a container without a group.  What to write is gear/runtime/groupfiles.py's to say.
"""

from __future__ import annotations

import errno
import os
import time

from gear.helper.failure import Failure
from gear.runtime import groupfiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MOUNT = "/sys/fs/cgroup"
_PATIENCE = 10.0  # seconds that the kernel may take to end or freeze what was told to


class Hierarchies:
    """Where the hierarchies are that this process is in (cgroups(7), "/proc files")."""

    def __init__(self, pid: int | str = "self") -> None:
        self.unified = ""
        self.controllers: dict[str, str] = {}
        self.paths: dict[str, str] = {}  # by mount point, which group the process is in
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if not controllers:
                for place in (MOUNT, f"{MOUNT}/unified"):
                    if not self.unified and os.path.exists(f"{place}/cgroup.procs"):
                        self.unified, self.paths[place] = place, path
                continue
            name = controllers.removeprefix("name=")
            place = f"{MOUNT}/{name}"
            if os.path.exists(f"{place}/cgroup.procs"):
                self.paths[place] = path
                for controller in name.split(","):
                    self.controllers[controller] = place


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def plan(path: str) -> dict[str, Any]:
    """The description that make(path) would return at most."""
    hierarchies = Hierarchies()
    description: dict[str, Any] = {}
    if hierarchies.unified:
        description["unified"] = hierarchies.unified + path
    if hierarchies.controllers:
        description["controllers"] = {name: place + path for name, place in hierarchies.controllers.items()}
    return description


def make(path: str) -> dict[str, Any]:
    """Make the group *path*, which is absolute, in every hierarchy; returns its description."""
    hierarchies = Hierarchies()
    description: dict[str, Any] = {}
    if hierarchies.unified:
        description["unified"] = _make_unified(hierarchies.unified, path)
    controllers = {}
    for controller, place in hierarchies.controllers.items():
        try:
            controllers[controller] = _make_version1(controller, place, path)
        except OSError as error:
            # Shown but not given to this machine, as in a nested one: a limit that needs it is refused later.
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
    if controllers:
        description["controllers"] = controllers
    return description


def _make_unified(mount: str, path: str) -> str:
    directory = mount
    for part in filter(None, path.split("/")):
        enable_controllers(directory)
        directory = f"{directory}/{part}"
        _mkdir(directory)
    return directory


def _mkdir(directory: str) -> None:
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        pass


def enable_controllers(directory: str) -> None:
    """Let groups below *directory* have its controllers, as far as the kernel allows; what is missing and wanted
    shows when its file is written."""
    enabled = _read(f"{directory}/cgroup.subtree_control").split()
    for controller in _read(f"{directory}/cgroup.controllers").split():
        if controller not in enabled:
            try:
                _write(f"{directory}/cgroup.subtree_control", f"+{controller}")
            except OSError:  # it has processes of its own, or realtime ones
                continue


def _make_version1(controller: str, mount: str, path: str) -> str:
    directory = mount
    for part in filter(None, path.split("/")):
        above, directory = directory, f"{directory}/{part}"
        _mkdir(directory)
        if controller == "cpuset":  # empty at first, and without both no process can be put there
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not _read(f"{directory}/{file}").strip():
                    _write(f"{directory}/{file}", _read(f"{above}/{file}").strip())
    return directory


def directories(description: dict[str, Any]) -> list[str]:
    """All directories of a group, each once."""
    found = [description["unified"]] if description.get("unified") else []
    return [*found, *dict.fromkeys((description.get("controllers") or {}).values())]


def attach(description: dict[str, Any], pid: int) -> None:
    """Put a process into a group."""
    for directory in directories(description):
        try:
            _write(f"{directory}/cgroup.procs", str(pid))
        except OSError as error:
            raise Failure(
                f"can't put process {pid} into the control group {directory}: {error.strerror}"
            ) from error


class Membership:
    """A group for a process that joins a container (gear/helper/enter.py): it is created there or goes there itself,
    which is much faster than to be put there."""

    def __init__(self, description: dict[str, Any]) -> None:
        self._directories = directories(description)
        self._unified = description.get("unified")
        self.descriptor: int | None = None
        if self._unified:
            try:
                self.descriptor = os.open(self._unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                pass  # told when it is joined

    def join(self, *, created_inside: bool) -> None:
        """Put the calling process there; raises Failure."""
        for directory in self._directories:
            if directory == self._unified and created_inside:
                continue
            # The calling thread, its process's only one, moves without the wait that moving a process takes.
            file = "cgroup.procs" if directory == self._unified else "tasks"
            try:
                _write(f"{directory}/{file}", "0")
            except OSError as error:
                raise Failure(f"can't join the control group {directory}: {error.strerror}") from error


def apply(description: dict[str, Any], resources: dict[str, Any], *, update: bool = False) -> None:
    """Write the limits; raises Failure for what this machine can't do."""
    if not directories(description):
        if any(resources.get(key) for key in resources if key != "devices"):
            raise Failure("the container has no control group, so it can't have limits")
        return
    if description.get("controllers"):
        _apply_version1(description, resources)
        return
    directory = description["unified"]
    for file, value in groupfiles.version2(resources):
        _write_choice(directory, file, value)
    rules = groupfiles.device_rules(resources)
    if rules and update:
        raise Failure("the devices of a container that exists can't be changed")
    if rules:
        from gear.runtime import devices

        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            devices.attach(descriptor, rules)
        except OSError as error:
            raise Failure(f"can't limit the devices of {directory}: {error.strerror}") from error
        finally:
            os.close(descriptor)


def _apply_version1(description: dict[str, Any], resources: dict[str, Any]) -> None:
    later = []
    for controller, file, value in groupfiles.version1(resources):
        directory = description["controllers"].get(controller)
        if directory is None:
            raise Failure(
                f"the limit {file} needs the controller {controller}, which this machine does not have"
            )
        try:
            _write_choice(directory, file, value)
        except Failure:
            # memory.limit_in_bytes may not pass memory.memsw.limit_in_bytes, so the order depends on the direction;
            # the same holds for the quota and the period.
            if not file.startswith(("memory.limit", "memory.memsw", "cpu.cfs")):
                raise
            later.append((directory, file, value))
    for directory, file, value in reversed(later):
        _write_choice(directory, file, value)


def write_files(directory: str, files: dict[str, str]) -> None:
    """Write files of a group of version 2, each line by itself."""
    for file, value in files.items():
        for line in str(value).split("\n"):
            _write_choice(directory, file, line)


def _write_choice(directory: str, file: str, value: str) -> None:
    """Write to the first of the files `a|b` that exists; with as many values, its own."""
    names, values = file.split("|"), value.split("|")
    for position, name in enumerate(names):
        last = position == len(names) - 1
        try:
            _write(f"{directory}/{name}", values[min(position, len(values) - 1)])
            return
        except FileNotFoundError:
            if last:
                raise Failure(_missing(directory, name)) from None
        except OSError as error:
            if last or not name.startswith("io.bfq"):
                raise Failure(f"can't write {values[0]} to {directory}/{name}: {error.strerror}") from error


def _missing(directory: str, name: str) -> str:
    """Why a group has no file *name*."""
    controller, _, rest = name.partition(".")
    if not rest:
        return f"the specified key has not the form CONTROLLER.VALUE `{name}`"
    try:
        known = _read(f"{directory}/cgroup.controllers").split()
    except OSError:  # version 1, where the directory is the controller's
        known = [controller]
    if controller not in known:
        return (
            f"the requested cgroup controller `{controller}` is not available, and the limit {name} needs it"
        )
    return f"can't write {directory}/{name}: No such file or directory"


def pids(description: dict[str, Any]) -> list[int]:
    """Every process in the group and the groups below it."""
    for directory in directories(description)[:1]:
        found: set[int] = set()
        for below in _tree(directory):
            try:
                found.update(map(int, _read(f"{below}/cgroup.procs").split()))
            except OSError:  # it has gone, or is threaded and says EOPNOTSUPP
                continue
        return sorted(found)
    return []


def _tree(directory: str) -> Iterator[str]:
    """*directory* and all below it, the deepest first."""
    try:
        entries = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in entries:
        yield from _tree(path)
    yield directory


def kill(description: dict[str, Any], number: int) -> None:
    """Send a signal to every process of the group."""
    from _signal import SIGKILL

    unified = description.get("unified")
    if number == SIGKILL and unified and os.path.exists(f"{unified}/cgroup.kill"):
        _write(f"{unified}/cgroup.kill", "1")
        return
    for pid in pids(description):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def wait_for(condition: Callable[[], bool], patience: float = _PATIENCE) -> bool:
    """Whether *condition* came true in time.  Control groups tell most of their changes to nobody (version 1)."""
    deadline, pause = time.monotonic() + patience, 0.0005
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


def remove(description: dict[str, Any]) -> None:
    """End what is left in the group and remove its directories; those above stay."""
    from _signal import SIGKILL

    present = [directory for directory in directories(description) if os.path.isdir(directory)]
    if not present:
        return

    def emptied() -> bool:
        if pids(description):
            kill(description, SIGKILL)
        for directory in present:
            for below in _tree(directory):
                try:
                    os.rmdir(below)
                except FileNotFoundError:
                    continue
                except OSError:  # EBUSY: something in it is still ending
                    return False
        return True

    if not wait_for(emptied):
        raise Failure(f"can't remove the control group {present[0]}: processes in it do not end")


def freeze(description: dict[str, Any], frozen: bool) -> None:
    """Stop all processes of the group, or let them go on, and wait until that has happened."""
    unified, version1 = description.get("unified"), (description.get("controllers") or {}).get("freezer")
    if unified and os.path.exists(f"{unified}/cgroup.freeze"):
        _write(f"{unified}/cgroup.freeze", "1" if frozen else "0")
    elif version1:
        _write(f"{version1}/freezer.state", "FROZEN" if frozen else "THAWED")
    else:
        raise Failure("the container has no control group that could be frozen")
    if not wait_for(lambda: is_frozen(description) == frozen):
        raise Failure(f"the container's processes did not {'freeze' if frozen else 'thaw'} in time")


def is_frozen(description: dict[str, Any]) -> bool:
    """Whether the group is frozen."""
    unified, version1 = description.get("unified"), (description.get("controllers") or {}).get("freezer")
    try:
        if unified:
            return "frozen 1" in _read(f"{unified}/cgroup.events")
        return bool(version1) and _read(f"{version1}/freezer.state").strip() == "FROZEN"
    except OSError:
        return False
