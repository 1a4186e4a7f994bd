"""Whether what is installed is as its specifications say: files, ids, volumes, the helper, units.

Not the image store (gear/checking.py).  Volumes and writable layers belong to whoever wrote to them: they are looked
at, and never changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gear import (
    boot,
    bundle,
    cloning,
    composing,
    containers,
    credentials,
    envsets,
    files,
    install,
    network_check,
    objects,
    publishing,
    replacing,
    scheduling,
    snapshots,
    storage,
    store,
    switching,
    uids,
    upgrade_record,
    volume_check,
    volumestore,
)
from gear.checking import directory_mode
from gear.errors import GearError
from gear.findings import Finding
from gear.model import NAME, Layout
from gear.oci import Image
from gear.spec import Spec
from gear.supplies import ENV_SET, KINDS, SECRET, object_path

# What may hold secrets, and so is for root only.
PRIVATE = ("spec.json", "config.json", "start.json", "run.json", "upgrade.json", "upgrades.json")


def check(layout: Layout) -> Iterator[Finding]:
    """The faults of everything but images.  The caller holds the lock."""
    yield from _directories(layout)
    installed = containers.names(layout)
    specs = {}
    for name in installed:
        try:
            specs[name] = containers.get(layout, name)
        except GearError as error:
            yield Finding(
                containers.spec_path(layout, name),
                f"can't be read: {error.message}",
                hint=f"gear install IMAGE {name} with all its options; the writable layer and volumes stay",
            )
    # Until they are finished, which what is left over tells, they are neither what they were nor what they will be.
    half = {name: spec for name, spec in specs.items() if containers.switch_path(layout, name).exists()}
    specs = {name: spec for name, spec in specs.items() if name not in half}
    yield from _strays(layout)
    yield from _ids(layout, specs)
    yield from network_check.check(layout, specs)
    yield from _helper(layout, specs)
    yield from _supplies(layout, specs)
    for spec in specs.values():
        yield from _container(layout, spec)
        yield from _snapshots(layout, spec.name)
        yield from _upgrades(layout, spec.name)
        yield from scheduling.check(layout, spec.name)
    for name in half:
        yield from _switch(layout, name)
    if specs:
        yield from _static_units(layout)
    yield from _boot_links(layout)


def _directories(layout: Layout) -> Iterator[Finding]:
    yield from directory_mode(layout.state, 0o755)
    kept = [place for kind in KINDS for place in (layout.state / kind, *_entries(layout.state / kind))]
    for path in (
        layout.containers,
        layout.volumes,
        uids.directory(layout),
        layout.networks,
        layout.ports,
        *kept,
    ):
        yield from directory_mode(path, 0o700)
    yield from directory_mode(layout.state / "helper", 0o755)
    for path in [layout.volumes / name for name in volumestore.names(layout)]:
        if (path / "data").is_dir():
            yield from volume_check.check(layout, path.name)
        else:
            yield Finding(path, "is no volume: it has no directory data")


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _strays(layout: Layout) -> Iterator[Finding]:
    """Containers that have lost their specification, but not what they wrote."""
    for path in _entries(layout.containers):
        if cloning.abandoned(layout, path.name):
            continue
        if NAME.fullmatch(path.name) and path.is_dir() and not (path / "spec.json").exists():
            if any(_has_files(upper) for upper in path.glob("layer-*/*")):
                yield Finding(
                    path,
                    "has a writable layer with files, but no spec.json",
                    hint=f"gear install IMAGE {path.name} of the same image takes it over; gear clean removes it",
                )


def _has_files(directory: Path) -> bool:
    return directory.name != "work" and directory.is_dir() and any(directory.iterdir())


def _ids(layout: Layout, specs: dict[str, Spec]) -> Iterator[Finding]:
    """Each container with ids of its own has the link that took them, and nobody else has any of them."""
    ranges = uids.ranges(layout)
    for spec in specs.values():
        if not spec.own_ids:
            continue
        own = spec.uid_base, spec.id_count
        for other in specs.values():
            apart = other.uid_base + other.id_count <= own[0] or own[0] + own[1] <= other.uid_base
            if other.name > spec.name and other.own_ids and not apart:
                yield Finding(
                    containers.spec_path(layout, other.name),
                    f"has user ids that {spec.name} has as well, from {other.uid_base} on",
                    hint=f"gear delete {other.name}, and install it again",
                )
        # As uids.take() and uids.allocate() call it.
        given = spec.isolation.id_range is not None
        path = uids.directory(layout) / (f"{own[0]}:{own[1]}" if given else str(own[0]))
        holder = next((item for item in ranges if item.path == path), None)
        if holder is None:
            yield Finding(
                path, f"is missing: the user ids of {spec.name} are not taken", mend=_taker(path, spec.name)
            )
        elif holder.name != spec.name:
            rival = holder.name if holder.name in specs else ""
            yield Finding(
                path,
                f"belongs to {holder.name}, but {spec.name} has these user ids",
                mend=None if rival else _taker(path, spec.name),
                hint=f"gear delete {spec.name}, and install it again",
            )


def _taker(path: Path, name: str) -> Callable[[], None]:
    def take() -> None:
        with files.explained(f"write {path}"):
            files.make_directory(path.parent, 0o700)
            partial = files.partial_name(path)
            os.symlink(name, partial)
            os.rename(partial, path)
            files.sync_directory(path.parent)

    return take


def _helper(layout: Layout, specs: dict[str, Spec]) -> Iterator[Finding]:
    """What units start containers with."""
    directory = layout.state / "helper"
    current = directory / "current"
    if not specs and not current.is_symlink():
        return
    version = Path(os.path.realpath(current))
    if (
        not current.is_symlink()
        or version.parent != Path(os.path.realpath(directory))
        or not version.is_dir()
    ):
        yield Finding(
            current, "leads to no version of the start helper", mend=lambda: publishing.publish_helper(layout)
        )
    elif version.name == publishing.helper_version(sources := publishing.helper_sources()):
        for name, data in sources.items():
            path = version / name
            if not path.is_file() or path.is_symlink() or path.read_bytes() != data:
                yield Finding(path, "is damaged", mend=lambda: _publish_again(layout, version))
        try:
            bad = publishing.damaged_bytecode(version)
        except OSError:
            bad = version
        if bad is not None:
            yield Finding(bad, "has damaged bytecode", mend=lambda: _publish_again(layout, version))


def _supplies(layout: Layout, specs: dict[str, Spec]) -> Iterator[Finding]:
    """Secrets that containers have are there and can be decrypted, and environment sets can be read; what cannot be
    rendered without a config is told with its container."""
    for spec in specs.values():
        for name in spec.supplies.names(SECRET):
            if not objects.exists(layout, SECRET, name):
                what = f"is missing: {spec.name} has the secret {name}"
                yield Finding(object_path(layout, SECRET, name), what, hint=f"gear secret create {name} FILE")
    for name in objects.names(layout, SECRET):
        try:
            credentials.decrypt(layout, name)
        except GearError as error:
            yield Finding(
                object_path(layout, SECRET, name), f"is damaged: {error.message}", hint=error.hint or ""
            )
    for name in objects.names(layout, ENV_SET):
        try:
            envsets.read(layout, name)
        except GearError as error:
            yield Finding(
                object_path(layout, ENV_SET, name), f"can't be read: {error.message}", hint=error.hint or ""
            )


def _publish_again(layout: Layout, version: Path) -> None:
    files.remove_tree(version)
    publishing.publish_helper(layout)


def _container(layout: Layout, spec: Spec) -> Iterator[Finding]:
    directory = layout.containers / spec.name
    yield from directory_mode(directory, 0o700)
    yield from _private(directory)
    pull = f"gear image pull {_pullable(spec)}" if spec.image.digest else ""
    try:
        image = composing.image_of(layout, spec)
        pull = ""
        rendered = composing.render(spec, image, layout)
    except GearError as error:
        path = containers.spec_path(layout, spec.name)
        yield Finding(path, f"can't be rendered: {error.message}", hint=pull or error.hint or "")
        return
    missing = list(_volumes(layout, spec, image))
    yield from missing

    def apply() -> None:
        if missing:
            raise GearError(f"{spec.name} is left as it is while a volume of it is missing.")
        with store.lease(layout):
            install.apply(layout, spec, image)

    run = containers.run_of(layout, spec.name)
    if run is not None:
        # Its unit is transient: after a reboot only what it wrote is left.
        rendered.pop(containers.unit_path(layout, spec.name), None)
    mend = apply if run is None else None
    hint = "" if run is None else f"gear delete {spec.name}"
    layer = bundle.writable_layer(spec, layout)
    if not spec.ephemeral and not _is_layer(spec, layer):
        yield Finding(layer, "is missing: what the container wrote is gone", mend=mend, hint=hint, lost=True)
    altered = composing.compare(rendered)
    # `gear clean`, and fsck as well, tells of these as of what was interrupted, and finishes it.
    ready = replacing.staged(altered)
    for path, (found, _) in altered.items():
        if path not in ready:
            what = "is missing" if found is None else "is not what spec.json renders to"
            yield Finding(path, what, mend=mend, hint=hint)


def _private(directory: Path) -> Iterator[Finding]:
    for name in PRIVATE:
        path = directory / name
        if path.is_file() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield Finding(path, f"can be read by others: its mode is {mode:04o}", mend=_closer(path))


def _closer(path: Path) -> Callable[[], None]:
    return lambda: path.chmod(0o600)


def _pullable(spec: Spec) -> str:
    """The image of a container by name and digest, or its digest where the name has one already."""
    name = spec.image.reference.partition("@")[0]
    return f"{name}@{spec.image.digest}" if name != spec.image.digest else name


def _is_layer(spec: Spec, path: Path) -> bool:
    """A writable layer has all the parts that its storage driver makes: overlayfs needs both directories."""
    parts = ("upper", "work") if storage.driver(spec.storage).is_shifted else ("root",)
    return all((path / part).is_dir() for part in parts)


def _snapshots(layout: Layout, name: str) -> Iterator[Finding]:
    """Each snapshot of a container can be restored; what it holds is looked at no further."""
    yield from directory_mode(snapshots.directory(layout, name), 0o700)
    for label in snapshots.labels(layout, name):
        path = snapshots.directory(layout, name) / label
        hint = f"gear snapshot {name} --rm {label} removes it."
        try:
            found = snapshots.find(layout, name, label)
        except GearError as error:
            yield Finding(path, f"can't be restored: {error.message}", hint=hint)
            continue
        if not found.spec.ephemeral and not _is_layer(found.spec, path / "layer"):
            yield Finding(path, "can't be restored: its writable layer is missing", hint=hint)
        for volume in found.volumes:
            if not (path / "volumes" / volume).is_dir():
                yield Finding(path, f"can't be restored: it lacks the volume {volume}", hint=hint)
        try:
            composing.image_of(layout, found.spec)
        except GearError as error:
            pull = f"gear image pull {_pullable(found.spec)}" if found.spec.image.digest else ""
            yield Finding(path, f"can't be restored: {error.message}", hint=pull)


def _upgrades(layout: Layout, name: str) -> Iterator[Finding]:
    """What was remembered for a rollback can be gone back to; what was interrupted is told."""
    if upgrade_record.abandoned(layout, name):
        what = f"is left over: an upgrade of {name} was interrupted"
        yield Finding(upgrade_record.pending_path(layout, name), what, damage=False, hint="gear clean")
    path = upgrade_record.record_path(layout, name)
    try:
        record = upgrade_record.read(layout, name)
        upgrade_record.pending(layout, name)
    except GearError as error:
        yield Finding(path, error.message, hint=error.hint or "")
        return
    if record.previous is not None:
        try:
            composing.image_of(layout, record.previous)
        except GearError as error:
            yield Finding(path, f"can't be gone back to: {error.message}")


def _switch(layout: Layout, name: str) -> Iterator[Finding]:
    """The journal of a restore that was interrupted can be read, and so the restore be finished."""
    try:
        switching.read(layout, name)
    except GearError as error:
        yield Finding(
            containers.switch_path(layout, name),
            f"keeps {name} from being started: {error.message}",
            hint=error.hint or "",
        )


def _volumes(layout: Layout, spec: Spec, image: Image) -> Iterator[Finding]:
    for mount in bundle.effective_mounts(spec, image):
        if mount.kind == "volume":
            data = bundle.volume_directory(layout, mount.source)
            if not data.is_dir():
                yield Finding(
                    data,
                    f"is missing: {spec.name} has the volume {mount.source}",
                    hint=f"Put the data back, or let gear apply {spec.name} make an empty volume.",
                )


def _static_units(layout: Layout) -> Iterator[Finding]:
    for name, content in publishing.static_units().items():
        if files.read_bytes(layout.units / name) != content:
            yield Finding(
                layout.units / name, "is not as it came", mend=lambda: publishing.publish_static_units(layout)
            )


def _boot_links(layout: Layout) -> Iterator[Finding]:
    """Links that start at boot what is not there any more, and such as lead nowhere without another."""
    for target in (boot.ACTIVE_TARGET, boot.SOCKETS_TARGET):
        ours = 0
        for path in _entries(boot.wants(target)):
            leads_to = os.readlink(path) if path.is_symlink() else ""
            if os.path.dirname(leads_to) != str(layout.units):
                continue
            ours += 1
            if not os.path.lexists(leads_to):
                what = "starts a container that is not there"
                yield Finding(path, what, damage=False, mend=partial(boot.disable, path.name))
        if ours and not boot.link(target).is_symlink():
            what = f"is missing, so nothing of {target} starts at boot"
            yield Finding(boot.link(target), what, mend=partial(boot.enable, layout, target))
