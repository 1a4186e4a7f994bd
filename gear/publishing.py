"""What units need beside their own files: the start helper, static units, and PID 1's notice.

Not the files of one container (gear/install.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import gear
from gear import boot, bytecode, containers, files, process, sockets, units
from gear.errors import UsageError
from gear.model import Layout
from gear.network import unit_name
from gear.systemd import Manager

# Files that make up the helper in a checkout or an installation, by the name they get when published.
_SCRIPTS = ("stop", "remove", "reload")
# The programs that units run, each by the module that it is made of.
_PROGRAMS = {"start": "start", "network": "networks", "proxy": "proxy", "health": "health"}
_LAUNCHER = "launcher"
# As sha256sum(1) writes them, of the bytecode, which is not the same from one interpreter to the next.
_SUMS = "SHA256SUMS"


def helper_sources() -> dict[str, bytes]:
    """The helper's files by their path below its directory."""
    package = Path(gear.__file__).parent
    sources = {"gear/__init__.py": (package / "__init__.py").read_bytes()}
    for path in sorted((package / "helper").iterdir()):
        if path.suffix == ".py":
            sources[f"gear/helper/{path.name}"] = path.read_bytes()
        elif path.name in _SCRIPTS:
            sources[path.name] = path.read_bytes()
    launcher = (package / "helper" / _LAUNCHER).read_bytes()
    for name, module in _PROGRAMS.items():
        sources[name] = launcher.replace(b"MODULE", module.encode())
    return sources


def helper_version(sources: Mapping[str, bytes]) -> str:
    """What the directory of *sources* is called, for the interpreter that the system has now."""
    parts = {
        **sources,
        # What the bytecode depends on besides.
        "interpreter": os.path.realpath(units.PYTHON).encode(),
        "bytecode.py": Path(bytecode.__file__).read_bytes(),
    }
    content = b"".join(name.encode() + b"\0" + data + b"\0" for name, data in parts.items())
    return hashlib.sha256(content).hexdigest()[:16]


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def damaged_bytecode(version: Path) -> Path | None:
    """What of the bytecode in the published helper *version* is not as it was written; raises OSError."""
    lines = (version / _SUMS).read_text().splitlines()
    if not lines:
        return version / _SUMS
    for line in lines:
        wanted, _, name = line.partition("  ")
        if _sum(version / name) != wanted:
            return version / name
    return None


def publish_helper(layout: Layout) -> None:
    """Put the helper where units find it, by its content, and switch `current` to it; nothing to do if it is there.

    Units never run anything from a checkout or a virtual environment, so these can go away.
    """
    sources = helper_sources()
    directory = layout.state / "helper"
    version, current = directory / helper_version(sources), directory / "current"
    with files.explained(f"publish the start helper in {directory}"):
        if not version.is_dir():
            files.make_directory(directory)
            partial = files.partial_name(version)
            try:
                for name, data in sources.items():
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).write_bytes(data)
                # By the interpreter that will run it, which may not be the one running this.
                program = Path(bytecode.__file__)
                process.output([*units.INTERPRETER, str(program), str(partial), str(version)])
                sums = [f"{_sum(path)}  {path.name}\n" for path in partial.glob("bytecode-*")]
                (partial / _SUMS).write_text("".join(sums))
                # Whatever the caller's umask: roots of containers read it as well.
                for path in (partial, *partial.rglob("*")):
                    path.chmod(0o755 if path.is_dir() else 0o644)
                # Every container needs it, and what has its name is taken for whole ever after.
                files.sync_file_system(partial)
                os.rename(partial, version)
                files.sync_directory(directory)
            except BaseException:
                import shutil

                shutil.rmtree(partial, ignore_errors=True)
                raise
        if not current.is_symlink() or os.readlink(current) != version.name:
            link = files.partial_name(current)
            os.symlink(version.name, link)
            os.rename(link, current)
            files.sync_directory(directory)


def static_units() -> dict[str, bytes]:
    """The units that come with gear, by name: slices, targets, and what serves metrics."""
    package = Path(gear.__file__).parent
    directory = package / "static_units"
    if not directory.is_dir():
        directory = package.parent / "units"  # a checkout
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.suffix in (".slice", ".target", ".socket", ".service")
    }


def publish_static_units(layout: Layout, *, missing: bool = False) -> list[str]:
    """Write the units that are missing or of another version, or *missing* ones only, which PID 1 finds without being
    told; returns their names."""
    files.make_directory(layout.units)
    written = []
    for name, content in static_units().items():
        found = files.read_bytes(layout.units / name)
        if found is None or (found != content and not missing):
            files.write_atomic(layout.units / name, content)
            written.append(name)
    return written


def require_unit_directory(manager: Manager, layout: Layout) -> None:
    """Raise UsageError unless PID 1 looks for unit files where gear would write them."""
    if str(layout.units) not in manager.search_path():
        raise UsageError(
            f"systemd does not look for units in {layout.units}, so it would never find a container.",
            hint="systemctl show --property=UnitPath lists where it looks.",
        )


def acquaint(manager: Manager, layout: Layout, names: Iterable[str]) -> bool:
    """Make PID 1 know the units of *names* as they are on disk; returns whether that took a daemon-reload.

    A unit file that is new needs none (systemd looks for it when it is asked for), a changed one does, and so does
    the first file in a search directory that did not exist when PID 1 last looked.
    """
    written = publish_static_units(layout)
    boot.enable(layout, boot.ACTIVE_TARGET)
    boot.enable(layout, boot.SOCKETS_TARGET)
    for name in names:
        spec = containers.existing(layout, name)
        written += [path.name for path in sockets.unit_files(layout, name)]
        written += [] if spec is None else [unit_name(network) for network in spec.network.networks]
        written.append(containers.unit_path(layout, name).name)
    for unit in dict.fromkeys(written):
        if "@." in unit:  # a template, which is read with each instance
            continue
        if manager.get(unit, "LoadState", "s") == "not-found" or manager.get(unit, "NeedDaemonReload", "b"):
            manager.reload()
            return True
    return False
