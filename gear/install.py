"""Installing: from a request to published files, all or nothing.

What is published is what gear/containers.py renders.  Nothing here starts anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gear
from gear import (
    allocation,
    boot,
    bundle,
    connecting,
    containers,
    files,
    host,
    lifecycle,
    neighbours,
    process,
    publishing,
    store,
    uids,
    units,
)
from gear.errors import GearError, UsageError
from gear.isolation import Isolation
from gear.model import Layout
from gear.network import unit_name
from gear.oci import Image
from gear.spec import ImageRef, Spec
from gear.systemd import Manager, booted
from gear.view import View

# Files that make up the helper in a checkout or an installation, by the name they get when published.
_HELPER_FILES = {"launcher": "start", "network-launcher": "network", "stop": "stop", "remove": "remove"}


@dataclass(frozen=True)
class Installed:
    """What an install did to one container."""

    spec: Spec
    created: bool
    changes: tuple[str, ...]  # members of the spec, and files that had been altered; empty: nothing was to do


def request(layout: Layout, name: str, image: Image, options: Mapping[str, Any]) -> Spec:
    """The spec for *name* with *options* (fields of Spec); an id range is kept, or a preview of the next one."""
    old = containers.existing(layout, name)
    isolation: Isolation = options.get("isolation", Isolation())
    if isolation.userns == "host":
        base = 0
    elif isolation.id_range is not None:
        base = isolation.id_range[0]
    else:
        base = old.uid_base if old and old.isolation.userns == "auto" else uids.FIRST
    return Spec(name=name, image=ImageRef(image.reference, image.digest), uid_base=base, **options)


def install(layout: Layout, name: str, image_text: str, options: Mapping[str, Any]) -> Installed:
    """Create or replace the container *name*; raises GearError and leaves what was there before."""
    with files.locked(layout.lock), store.lease(layout):
        image = containers.resolve(layout, image_text)
        spec = request(layout, name, image, options)
        return apply(layout, spec, image)


def prepare_run(
    layout: Layout, name: str, image_text: str, options: Mapping[str, Any], run: containers.Run
) -> tuple[Spec, Image, int]:
    """The files of a container that is run and not installed; the name must be free.

    The last item is a descriptor with a lock, by which `gear clean` knows that somebody looks after it.
    """
    with files.locked(layout.lock), store.lease(layout):
        if containers.exists(layout, name):
            raise GearError(
                f"There is a container {name} already.", hint=f"Choose another --name, or: gear delete {name}"
            )
        image = containers.resolve(layout, image_text)
        spec = request(layout, name, image, options)
        files.make_directory(layout.containers, 0o700)
        files.make_directory(layout.containers / name, 0o700)
        try:
            volumes = [
                volume
                for volume in sorted(units.declared_volumes(spec, image))
                if not (layout.volumes / volume).exists()
            ]
            document = files.dump_json({"kind": run.kind, "remove": run.remove, "volumes": volumes})
            files.write_atomic(containers.run_path(layout, name), document, 0o600)
            spec = apply(layout, spec, image).spec
            owner = os.open(layout.containers / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(owner, fcntl.LOCK_EX)
            return spec, image, owner
        except BaseException:
            if not containers.spec_path(layout, name).exists():
                files.remove_tree(layout.containers / name)
            raise


def apply(layout: Layout, spec: Spec, image: Image) -> Installed:
    """Publish everything that *spec* renders to.  The caller holds the lock and a lease of the store."""
    name = spec.name
    old = containers.existing(layout, name)
    host.require_controllers(spec)
    spec = _settled(layout, spec, old)
    # Rendered first with whatever range: it finds every fault of the request before anything is written.
    _check_host(layout, spec, image)
    containers.render(spec, image, layout)
    publish_helper(layout)
    with contextlib.ExitStack() as undo:
        if old is None:
            undo.callback(uids.release, layout, name)
        had = allocation.held(layout, name)
        undo.callback(lambda: allocation.give_back(allocation.held(layout, name) - had))
        connecting.take(layout, name, spec.network)
        if old is None or old.isolation.userns != spec.isolation.userns:
            spec = dataclasses.replace(spec, uid_base=_take_ids(layout, spec))
        if old is None:
            if not containers.spec_path(layout, name).exists():
                undo.callback(files.remove_tree, layout.containers / name)
        rendered = containers.render(spec, image, layout)
        changed = containers.compare(rendered)
        _make_directories(layout, spec, image, undo)
        with neighbours.told(layout, name, spec):
            publishing.publish(changed)
        if old is not None and old.network.ports and not spec.network.interfaces and booted():
            # Its unit no longer does this when it ends; so what runs is not reached from now on.
            connecting.unpublish(layout, name)
        undo.pop_all()
    _give_back(layout, spec, had - allocation.wanted(layout, spec.network))
    changes = [] if old is None else _differences(old, spec)
    if old is not None and not changes:
        changes = [str(path) for path in changed]
    return Installed(spec, old is None, tuple(changes))


def _give_back(layout: Layout, spec: Spec, links: set[Path]) -> None:
    """Free addresses and ports that *spec* no longer has, unless its payload runs and so uses them still."""
    if links and not lifecycle.runs_with_earlier(layout, spec):
        allocation.give_back(links)


def _take_ids(layout: Layout, spec: Spec) -> int:
    """Take the user ids that *spec* asks for; returns the first one."""
    if not spec.own_ids:
        return 0
    if spec.isolation.id_range is not None:
        return uids.take(layout, spec.name, *spec.isolation.id_range)
    return uids.allocate(layout, spec.name)


def preview(layout: Layout, spec: Spec, image: Image) -> dict[Path, tuple[bytes | None, bytes]]:
    """What apply() would write: (found, rendered) by path.  Nothing is changed."""
    spec = _settled(layout, spec, containers.existing(layout, spec.name))
    _check_host(layout, spec, image)
    return containers.compare(containers.render(spec, image, layout))


def _settled(layout: Layout, spec: Spec, old: Spec | None) -> Spec:
    network = connecting.settle(layout, spec.name, spec.network, old.network if old else None)
    settled = dataclasses.replace(spec, network=network)
    neighbours.require_unambiguous(layout, settled)
    return settled


def _differences(old: Spec, new: Spec) -> list[str]:
    before, after = old.to_mapping(), new.to_mapping()
    found = []
    for part in ("network", "naming", "isolation"):
        inner = before.pop(part), after.pop(part)
        members = {*inner[0], *inner[1]}
        found += sorted(member for member in members if inner[0].get(member) != inner[1].get(member))
    return [member for member in after if before[member] != after[member]] + found


def _check_host(layout: Layout, spec: Spec, image: Image) -> None:
    """Raise GearError for what the container takes from this machine and is not there."""
    host.require_security(spec)
    if (zone := containers.zone_of_host(spec, image, layout)) is not None:
        host.require_zone(zone)
    for mount in spec.mounts:
        if mount.kind == "bind" and not os.path.lexists(mount.source):
            raise UsageError(
                f"{spec.name} can't have {mount.source} mounted: there is no such file or directory on this machine.",
                hint=f"mkdir -p {mount.source}",
            )


def _make_directories(layout: Layout, spec: Spec, image: Image, undo: contextlib.ExitStack) -> None:
    """The directories a container needs, each complete when it appears."""
    files.make_directory(layout.state)
    files.make_directory(layout.containers, 0o700)
    files.make_directory(layout.containers / spec.name, 0o700)
    for path in (layout.containers / spec.name).glob(f"{files.PARTIAL}*"):
        _discard(path)  # of a run that was cut off; the lock keeps everybody else away
    files.make_directory(layout.containers / spec.name / "rootfs")
    files.make_directory(layout.units)
    if not spec.ephemeral:
        _make_writable_layer(layout, spec, image)
    # Layers of other users' programs: nobody but root gets near the set-user-ID files in a volume.
    files.make_directory(layout.volumes, 0o700)
    # A new volume gets what an image has there, but no copy of the host's own files.
    roots = [] if spec.image.directory is not None else containers.roots(layout, image)
    for mount in bundle.effective_mounts(spec, image):
        if mount.kind == "volume" and not bundle.volume_directory(layout, mount.source).exists():
            _make_volume(layout, mount.source, View(roots), mount.destination)
            undo.callback(files.remove_tree, layout.volumes / mount.source)


def _discard(path: Path) -> None:
    if path.is_dir():
        files.remove_tree(path)
    else:
        files.remove_file(path)


def _make_writable_layer(layout: Layout, spec: Spec, image: Image) -> None:
    target = bundle.writable_layer(spec, layout)
    if target.exists():
        return
    partial = files.partial_name(target)
    with files.explained(f"create the writable layer {target}"):
        try:
            (partial / "work").mkdir(parents=True, mode=0o700)
            upper = partial / "upper"
            upper.mkdir()
            # The upper directory is what the container sees as `/`, so it looks as the image's root does.
            layers = containers.roots(layout, image)
            top = layers[-1].stat() if layers else partial.stat()
            os.chown(upper, spec.uid_base + top.st_uid, spec.uid_base + top.st_gid)
            os.chmod(upper, top.st_mode & 0o7777)
            for made in (upper, partial):
                files.sync_directory(made)
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _make_volume(layout: Layout, name: str, view: View, destination: str) -> None:
    """A new volume with what the image has at *destination*, as Docker does it.

    Files keep the ids they have in the image: the mount shifts them, so a volume can change containers.
    """
    target = layout.volumes / name
    partial = files.partial_name(target)
    with files.explained(f"create the volume {name}"):
        try:
            data = partial / "data"
            data.mkdir(parents=True)
            view.copy_tree(destination, data)
            files.sync_file_system(partial)
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    files.sync_directory(layout.volumes)


def helper_sources() -> dict[str, bytes]:
    """The helper's files by their path below its directory."""
    package = Path(gear.__file__).parent
    sources = {"gear/__init__.py": (package / "__init__.py").read_bytes()}
    for path in sorted((package / "helper").iterdir()):
        if path.suffix == ".py":
            sources[f"gear/helper/{path.name}"] = path.read_bytes()
        elif path.name in _HELPER_FILES:
            sources[_HELPER_FILES[path.name]] = path.read_bytes()
    return sources


def publish_helper(layout: Layout) -> None:
    """Put the helper where units find it, by its content, and switch `current` to it; nothing to do if it is there.

    Units never run anything from a checkout or a virtual environment, so these can go away.
    """
    sources = helper_sources()
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + data + b"\0" for name, data in sources.items()))
    directory = layout.state / "helper"
    version, current = directory / digest.hexdigest()[:16], directory / "current"
    with files.explained(f"publish the start helper in {directory}"):
        if not version.is_dir():
            files.make_directory(directory)
            partial = files.partial_name(version)
            try:
                for name, data in sources.items():
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).write_bytes(data)
                # Cached bytecode of the interpreter that will run it, which may not be the one running this.
                process.output([*units.INTERPRETER, "-m", "compileall", "-q", str(partial)])
                # Every container needs it, and what has its name is taken for whole ever after.
                files.sync_file_system(partial)
                os.rename(partial, version)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        if not current.is_symlink() or os.readlink(current) != version.name:
            link = files.partial_name(current)
            os.symlink(version.name, link)
            os.rename(link, current)
            files.sync_directory(directory)


def static_units() -> dict[str, bytes]:
    """The slices and targets that come with gear, by unit name."""
    package = Path(gear.__file__).parent
    directory = package / "static_units"
    if not directory.is_dir():
        directory = package.parent / "units"  # a checkout
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.suffix in (".slice", ".target")
    }


def publish_static_units(layout: Layout) -> list[str]:
    """Write the slices and targets that are missing or of another version; returns their names."""
    files.make_directory(layout.units)
    written = []
    for name, content in static_units().items():
        if files.read_bytes(layout.units / name) != content:
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
    for name in names:
        spec = containers.existing(layout, name)
        written += [] if spec is None else [unit_name(network) for network in spec.network.networks]
        written.append(containers.unit_path(layout, name).name)
    for unit in dict.fromkeys(written):
        manager.load(unit)
        if manager.get(unit, "LoadState", "s") == "not-found" or manager.get(unit, "NeedDaemonReload", "b"):
            manager.reload()
            return True
    return False
