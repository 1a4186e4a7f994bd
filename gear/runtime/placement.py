"""Putting a container into its control group: which manager, which name, and the limits of config.json.

Where the group is afterwards is a description that gear/runtime/cgroups.py works with, whoever made it.
"""

from __future__ import annotations

import os

from gear.helper.failure import Failure
from gear.runtime import cgroups, groupfiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DEFAULT_SLICE = "container.slice"
# The container's group below its scope, on version 2; clients of crun look for this name.
_INNER = "container"
_UNIT = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_."


def place(
    manager: str,
    name: str,
    config: dict[str, Any],
    pid: int,
    description: dict[str, Any],
    note: Callable[[], None],
) -> None:
    """Make the group of container *name*, limit it, and put *pid* there.

    *description* says what there is or is about to be, and *note* is called before anything is made, so that whoever
    cleans up after a crash at any moment knows.
    """
    linux = config.get("linux") or {}
    path, resources = linux.get("cgroupsPath") or "", linux.get("resources") or {}
    if manager == "disabled":
        return
    if manager == "systemd":
        _place_in_scope(path, name, resources, pid, description, note)
        return
    wanted = group_path(path, name)
    try:
        _refuse_busy(wanted)
        description.update(cgroups.plan(wanted))
        note()
        made = cgroups.make(wanted)
        description.clear()
        description.update(made)
    except OSError as error:
        if not path and not resources:  # nobody asked for a group: without one it runs as well
            cgroups.remove(description)
            description.clear()
            return
        raise Failure(f"can't make the control group {wanted}: {error.strerror}") from error
    cgroups.apply(description, resources)
    cgroups.attach(description, pid)


def group_path(path: str, name: str) -> str:
    """The group's absolute path in each hierarchy; a relative one begins at the root as well."""
    path = os.path.normpath("/" + (path or f"gear-oci-{name}")).lstrip("/")
    if not path or ".." in path.split("/"):
        raise Failure("linux.cgroupsPath can't be the root of the hierarchy")
    if path.count(":") == 2 and "/" not in path:
        raise Failure(f"linux.cgroupsPath {path} is a scope of systemd's: it needs --systemd-cgroup")
    return f"/{path}"


def _refuse_busy(path: str) -> None:
    """A group with processes is somebody else's: they would be limited, frozen and in the end killed as well."""
    hierarchies = cgroups.Hierarchies()
    for place in dict.fromkeys([hierarchies.unified, *hierarchies.controllers.values()]):
        if place and cgroups.pids({"unified": place + path}):
            raise Failure(f"the control group {place}{path} has processes already")


def scope_name(path: str, name: str) -> tuple[str, str]:
    """(slice, scope) for a cgroupsPath `slice:prefix:name`, as runc defined it; with defaults for what is empty."""
    parts = path.split(":") if path else ["", "gear", name]
    if len(parts) != 3 or "/" in path:
        raise Failure(f"linux.cgroupsPath must be slice:prefix:name with --systemd-cgroup, not {path}")
    slice_name, prefix, own = parts
    if not own:
        raise Failure(f"linux.cgroupsPath {path} has no name after the prefix")
    if slice_name and not slice_name.endswith(".slice"):
        raise Failure(f"linux.cgroupsPath {path} must begin with the name of a slice")
    unit = own if own.endswith(".scope") else f"{prefix}-{own}.scope" if prefix else f"{own}.scope"
    return slice_name or DEFAULT_SLICE, "".join(
        character if character in _UNIT else "".join(f"\\x{byte:02x}" for byte in character.encode())
        for character in unit
    )


def third_party() -> None:
    """Let packages be found that are not the standard library's: the program runs without `site`, to be fast."""
    import sys

    if "site" not in sys.modules:
        import site

        site.main()


def _place_in_scope(
    path: str,
    name: str,
    resources: dict[str, Any],
    pid: int,
    description: dict[str, Any],
    note: Callable[[], None],
) -> None:
    slice_name, scope = scope_name(path, name)
    if resources.get("devices"):
        resources = {**resources, "devices": groupfiles.device_rules(resources)}
    third_party()
    from gear import resources as mapping
    from gear.systemd import Manager

    properties = [
        ("Description", f"gear-oci container {name}"), ("Slice", slice_name), ("PIDs", [pid]), ("Delegate", True),
        ("DefaultDependencies", False), ("CollectMode", "inactive-or-failed"), ("CPUAccounting", True),
        ("MemoryAccounting", True), ("IOAccounting", True), ("TasksAccounting", True),
        *mapping.properties(resources),
    ]  # fmt: skip
    description["scope"] = scope
    note()
    with Manager() as manager:
        manager.start_transient(scope, properties)
    description.update(_own_groups(pid, scope))
    if description.get("unified") and not description.get("controllers"):
        _enter_inner(description, pid, resources)
    _write_leftovers(description, mapping.leftovers(resources))


def _enter_inner(description: dict[str, Any], pid: int, resources: dict[str, Any]) -> None:
    """Put *pid* into a group of its own below the scope, and show it the limits there.

    The scope's group is systemd's, and is removed in the moment in which it is empty; whoever watches the container's
    events, as conmon does to know of an OOM kill, has until then only because the removal begins with this one.
    """
    above = description["unified"]
    inner = f"{above}/{_INNER}"
    try:
        os.mkdir(inner, 0o755)
        cgroups.attach({"unified": inner}, pid)
        description["unified"] = inner
        cgroups.enable_controllers(above)
    except OSError as error:
        raise Failure(f"can't make the control group {inner}: {error.strerror}") from error
    _show_limits(description, resources)


def _show_limits(description: dict[str, Any], resources: dict[str, Any]) -> None:
    """The scope's limits as the container sees them in its own group."""
    shown = {name: value for name, value in resources.items() if name not in ("devices", "blockIO")}
    cgroups.apply(description, shown)


def _own_groups(pid: int, scope: str) -> dict[str, Any]:
    """The directories of *pid*'s groups, as far as they are the scope's: systemd uses some hierarchies of version 1
    and leaves others alone, and there the group would be everybody's."""
    hierarchies = cgroups.Hierarchies(pid)
    mine = {place: place + path for place, path in hierarchies.paths.items() if path.endswith(f"/{scope}")}
    description: dict[str, Any] = {}
    if hierarchies.unified in mine:
        description["unified"] = mine[hierarchies.unified]
    controllers = {key: mine[place] for key, place in hierarchies.controllers.items() if place in mine}
    if controllers:
        description["controllers"] = controllers
    return description


def _write_leftovers(description: dict[str, Any], files: dict[str, str]) -> None:
    if not files:
        return
    if not description.get("unified"):
        raise Failure(f"the limit {next(iter(files))} needs control groups of version 2")
    cgroups.write_files(description["unified"], files)


def update(description: dict[str, Any], resources: dict[str, Any]) -> None:
    """Change the limits of a container that exists."""
    if not description.get("scope"):
        cgroups.apply(description, resources, update=True)
        return
    third_party()
    from gear import resources as mapping
    from gear.systemd import Manager

    with Manager() as manager:
        manager.set_properties(description["scope"], mapping.properties(resources))
    if description.get("unified", "").endswith(f".scope/{_INNER}"):
        _show_limits(description, resources)
    _write_leftovers(description, mapping.leftovers(resources))


def remove(description: dict[str, Any]) -> None:
    """Remove the group with whatever is left in it.  An empty scope is systemd's to remove."""
    scope = description.get("scope")
    if not scope:
        cgroups.remove(description)
        return
    from _signal import SIGKILL

    def gone() -> bool:
        if cgroups.pids(description):
            cgroups.kill(description, SIGKILL)
        return not any(map(os.path.isdir, cgroups.directories(description)))

    if cgroups.directories(description) and cgroups.wait_for(gone, 1.0):
        return
    third_party()
    from gear.systemd import Manager

    with Manager() as manager:
        manager.stop([scope])
        manager.reset_failed(scope)
