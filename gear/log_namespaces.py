"""Log namespaces: a journald of their own for the output of some containers (systemd-journald@NAMESPACE.service).

What one may keep is a file for that journald, beside gear's units: the only record that there is of it.  A namespace
needs none: with --log-namespace alone, journald's defaults hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gear import containers, files
from gear.errors import GearError, NotFoundError
from gear.journaling import NamespaceLimits, namespace_name
from gear.model import Layout
from gear.records import dataclass
from gear.systemd import Manager

_FILE = "50-gear.conf"
_BEFORE, _AFTER = "journald@", ".conf.d"
# Where journald keeps the files of namespaces: MACHINE-ID.NAMESPACE.
_PLACES = ("/var/log/journal", "/run/log/journal")
_MACHINE = "/etc/machine-id"


@dataclass(frozen=True)
class LogNamespace:
    """A log namespace: its limits (None without a file of gear's), who writes to it, and how much it keeps."""

    name: str
    limits: NamespaceLimits | None
    containers: tuple[str, ...]
    size: int  # bytes


def _directory(layout: Layout, name: str) -> Path:
    # Where journald looks after /etc and /run, as PID 1 does for gear's units.
    return layout.units.parent / f"{_BEFORE}{name}{_AFTER}"


def create(manager: Manager, layout: Layout, name: str, limits: NamespaceLimits) -> bool:
    """Write what the namespace may keep; returns whether that is new.  A journald that runs reads it at once."""
    namespace_name(name)
    path = _directory(layout, name) / _FILE
    with files.locked(layout.lock):
        if files.read_bytes(path) == limits.settings():
            return False
        files.make_directory(path.parent)
        files.write_atomic(path, limits.settings())
    _restart(manager, name)
    return True


def _restart(manager: Manager, name: str) -> None:
    """Have a journald that runs read its settings.  PID 1 keeps the streams of its writers meanwhile."""
    unit = f"systemd-journald@{name}.service"
    if manager.get(unit, "ActiveState", "s") == "active":
        result = manager.restart([unit])[unit]
        if result != "done":
            raise GearError(f"{unit} does not start with its new settings: {result.rstrip('.')}.")


def listing(layout: Layout) -> list[LogNamespace]:
    """All namespaces that have limits or containers, sorted."""
    users = _users(layout)
    names = set(users)
    with files.explained(f"read {layout.units.parent}"):
        try:
            found = os.listdir(layout.units.parent)
        except FileNotFoundError:
            found = []
    for entry in found:
        if entry.startswith(_BEFORE) and entry.endswith(_AFTER):
            names.add(entry.removeprefix(_BEFORE).removesuffix(_AFTER))
    namespaces = []
    for name in sorted(names):
        settings = files.read_bytes(_directory(layout, name) / _FILE)
        if settings is None and name not in users:
            continue  # somebody else's
        limits = None if settings is None else NamespaceLimits.read(settings)
        namespaces.append(LogNamespace(name, limits, tuple(users.get(name, ())), _size(name)))
    return namespaces


def _users(layout: Layout) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in containers.names(layout):
        spec = containers.existing(layout, name)
        if spec is not None and spec.logging.namespace is not None:
            found.setdefault(spec.logging.namespace, []).append(name)
    return found


def _journals(name: str) -> Iterator[Path]:
    """The directories with the namespace's files."""
    machine = (files.read_bytes(Path(_MACHINE)) or b"").decode("ascii", "replace").strip()
    for place in _PLACES:
        path = Path(place) / f"{machine}.{name}"
        if machine and path.is_dir():
            yield path


def _size(name: str) -> int:
    total = 0
    for directory in _journals(name):
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # journald removes old ones
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def remove(manager: Manager, layout: Layout, name: str, *, entries: bool = False) -> None:
    """Take away the limits of a namespace and end its journald; what it has kept goes if *entries*.

    Raises GearError while a container writes to it.
    """
    namespace_name(name)
    with files.locked(layout.lock):
        users = _users(layout).get(name, [])
        if users:
            raise GearError(
                f"The log namespace {name} is in use by {', '.join(users)}.",
                hint=f"gear update {users[0]} --unset log-namespace",
            )
        directory = _directory(layout, name)
        known = (directory / _FILE).exists() or any(_journals(name))
        if not known:
            raise NotFoundError(f"There is no log namespace {name}.", hint="gear log-namespace list")
        files.remove_file(directory / _FILE)
        if directory.is_dir() and not os.listdir(directory):
            os.rmdir(directory)
        # Sockets as well, or the next reader would start it again.
        ends = ("@{}.socket", "-varlink@{}.socket", "@{}.service")
        manager.stop([f"systemd-journald{end.format(name)}" for end in ends])
        if entries:
            for journals in list(_journals(name)):
                files.remove_tree(journals)
