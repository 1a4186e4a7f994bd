"""The containers that are installed: reading their specs, rendering them, and what systemd says of them.

Changing them is in gear/install.py and gear/remove.py, starting and stopping in gear/lifecycle.py.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gear import (
    activation,
    bundle,
    confinement,
    definitions,
    envsets,
    files,
    hostsfile,
    provision,
    seccomp,
    store,
    units,
)
from gear.errors import GearError, NotFoundError, UsageError
from gear.model import NAME, Layout
from gear.mounting import host_path, volume_name
from gear.oci import Identity, Image, ImageConfig
from gear.spec import HOST_ROOT, ImageRef, Spec, unit_name
from gear.supplies import CONFIG, SECRET, object_path
from gear.view import View

# The largest file of tzdata has some 4 KiB.
_ZONE_LIMIT = 1 << 20


def spec_path(layout: Layout, name: str) -> Path:
    """Where the spec of the container *name* is."""
    return Path(f"{layout.container(name)}/spec.json")


def names(layout: Layout) -> list[str]:
    """The names of all installed containers, sorted."""
    with files.explained(f"read {layout.containers}"):
        try:
            entries = os.listdir(layout.containers)
        except FileNotFoundError:
            return []
    top = str(layout.containers)
    return sorted(
        entry for entry in entries if NAME.fullmatch(entry) and os.path.exists(f"{top}/{entry}/spec.json")
    )


def find(layout: Layout, name: str) -> Spec | None:
    """The spec of *name*, or None when it is not installed."""
    path = spec_path(layout, name)
    document = files.read_json(path)
    return None if document is None else Spec.from_mapping(document, str(path))


def exists(layout: Layout, name: str) -> bool:
    """Whether there is anything of the container *name*, whatever state it is in."""
    return (layout.containers / name).exists() or unit_path(layout, name).exists()


def not_found(name: str) -> NotFoundError:
    """The error for a container that is not installed."""
    return NotFoundError(
        f"There is no container {name}.", hint="gear list-units --all shows what is installed."
    )


def get(layout: Layout, name: str) -> Spec:
    """The spec of *name*; raises NotFoundError when it is not installed."""
    spec = find(layout, name)
    if spec is None:
        raise not_found(name)
    return spec


@dataclass(frozen=True)
class Run:
    """How a container of `gear run` lives: in a `service` or a `scope`, and whether it is removed when it ends, with
    the volumes that were made for it: one that was there before is somebody's data."""

    kind: str
    remove: bool
    volumes: tuple[str, ...] = ()


def run_path(layout: Layout, name: str) -> Path:
    """Where it is kept that a container is one of `gear run`."""
    return layout.containers / name / "run.json"


def switch_path(layout: Layout, name: str) -> Path:
    """Where it stands that what the container consists of is being replaced (gear/switching.py)."""
    return layout.containers / name / "switch.json"


def run_of(layout: Layout, name: str) -> Run | None:
    """How the container *name* was run; None for an installed one."""
    if not os.path.lexists(f"{layout.container(name)}/run.json"):  # nearly all of a thousand
        return None
    document = files.read_json(run_path(layout, name))
    if not isinstance(document, dict):
        return None
    kind = "scope" if document.get("kind") == "scope" else "service"
    volumes = tuple(volume_name(str(name)) for name in document.get("volumes") or ())
    return Run(kind, document.get("remove") is True, volumes)


def unit_of(layout: Layout, name: str) -> str:
    """The unit of *name*: a service, or a scope for what was run in a terminal."""
    run = run_of(layout, name)
    return scope_name(name) if run and run.kind == "scope" else unit_name(name)


def scope_name(name: str) -> str:
    """The unit of the container *name* when it was run in a terminal."""
    return unit_name(name).removesuffix("service") + "scope"


def has_owner(layout: Layout, name: str) -> bool:
    """Whether the gear that runs it is there still; it holds a lock on the container's directory."""
    with files.explained(f"read {layout.containers / name}"):
        descriptor = os.open(layout.containers / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def unit_path(layout: Layout, name: str) -> Path:
    """Where the service unit of *name* is: what was run and not installed is gone after a boot."""
    return (layout.units if run_of(layout, name) is None else layout.transient_units) / unit_name(name)


def image_of(layout: Layout, spec: Spec) -> Image:
    """The image a container was installed from, by its digest."""
    return resolve(layout, spec.image.reference if spec.image.directory is not None else spec.image.digest)


def is_directory(text: str) -> bool:
    """Whether *text* means a directory of the host, and not an image."""
    return text.startswith(f"{HOST_ROOT}/")


def resolve(layout: Layout, text: str) -> Image:
    """The image that *text* means: one of the store, or a directory of the host written host:/PATH."""
    if not is_directory(text):
        return store.resolve(layout, text)
    path = host_path(text.removeprefix(HOST_ROOT), "A container's root")
    if not os.path.isdir(path):
        raise NotFoundError(
            f"{path} can't be a container's root: there is no such directory on this machine."
        )
    return Image(f"{HOST_ROOT}{path}", "", ImageConfig.from_mapping({}), (), 0)


def roots(layout: Layout, image: Image) -> list[Path]:
    """The directories that are stacked to the image's tree, lowest first."""
    directory = ImageRef(image.reference, image.digest).directory
    if directory is not None:
        return [Path(directory)]
    return [store.layer_root(layout, diff_id) for diff_id in image.layers]


def render(spec: Spec, image: Image, layout: Layout) -> dict[Path, bytes]:
    """Every file of the container *spec* by its path, in the order in which they are written: spec.json first."""
    layers = roots(layout, image)
    view = View(layers)
    identity = _identity(spec, image, view)
    parts = bundle.render(
        spec,
        image,
        identity,
        layers,
        layout,
        seccomp=_filter(spec),
        zone_in_image=_has_zone(spec, view),
        networks=definitions.wanted(layout, spec.network.networks),
        neighbours=_neighbours(layout, spec, {}),
        content=envsets.content(layout, spec.supplies),
    )
    rendered = {spec_path(layout, spec.name): files.dump_json(spec.to_mapping()), **parts}
    run = run_of(layout, spec.name)
    if run is None or run.kind == "service":
        remove = run.volumes if run is not None and run.remove else None
        text = units.render(spec, image, layout, transient=run is not None, remove=remove)
        rendered[unit_path(layout, spec.name)] = text
        rendered |= {
            layout.units / unit: content for unit, content in units.render_sockets(spec, layout).items()
        }
    return rendered


def called(spec: Spec, network: str) -> dict[str, tuple[str, ...]]:
    """What the container is called on *network*, by its addresses there."""
    return {
        address: (spec.name, *item.aliases)
        for item in spec.network.interfaces
        if item.network == network
        for address in item.addresses()
    }


def names_on(layout: Layout, network: str) -> dict[str, tuple[str, ...]]:
    """What the containers on *network* are called, by their addresses."""
    found = hostsfile.find(layout, network)
    return names_asked_for(layout, network) if found is None else found


def names_asked_for(layout: Layout, network: str) -> dict[str, tuple[str, ...]]:
    """The same by all specifications, whatever has been told.  A container whose specification is damaged, which may
    run all the same, is called as the network's file says."""
    found: dict[str, tuple[str, ...]] = {}
    unreadable = set()
    for name in names(layout):
        spec = existing(layout, name)
        if spec is None:
            unreadable.add(name)
        else:
            found |= called(spec, network)
    said = hostsfile.said(layout, network) if unreadable else {}
    return {address: each for address, each in said.items() if each[0] in unreadable} | found


def hosts(layout: Layout, spec: Spec, known: Mapping[str, hostsfile.Names]) -> bytes:
    """What /etc/hosts of the container says; *known* is who is on some networks, as far as that is known already."""
    networks = definitions.wanted(layout, spec.network.networks)
    return bundle.hosts(spec, networks, _neighbours(layout, spec, known))


def _neighbours(layout: Layout, spec: Spec, known: Mapping[str, hostsfile.Names]) -> list[str]:
    """The lines of hosts about the others on the container's networks."""
    found = []
    for network in spec.network.networks:
        on_it = known[network] if network in known else names_on(layout, network)
        found += hostsfile.lines({key: each for key, each in on_it.items() if each[0] != spec.name})
    return found


def _has_zone(spec: Spec, view: View) -> bool:
    zone = spec.isolation.timezone
    return (
        zone not in (None, "local") and view.read_file(f"/usr/share/zoneinfo/{zone}", _ZONE_LIMIT) is not None
    )


def zone_of_host(spec: Spec, image: Image, layout: Layout) -> str | None:
    """The time zone that the container takes from this machine, since its image has none of that name."""
    return None if _has_zone(spec, View(roots(layout, image))) else spec.isolation.timezone


def _identity(spec: Spec, image: Image, view: View) -> Identity:
    """Who the payload runs as, with the groups that were asked for; raises UsageError for ids it has not."""
    found = view.lookup_user(spec.user if spec.user is not None else image.config.user, spec.id_count)
    more = [view.lookup_group(group) for group in spec.isolation.group_add]
    found = replace(found, groups=tuple(dict.fromkeys((*found.groups, *more))))
    if too_large := [group for group in more if group >= spec.id_count]:
        raise UsageError(
            f"{spec.name} can't have the group {too_large[0]}: it has ids 0 to {spec.id_count - 1}."
        )
    return found


def _filter(spec: Spec) -> bytes | None:
    """The compiled seccomp filter; None for a container without one."""
    wanted = spec.isolation.seccomp
    if wanted == "unconfined" or (spec.isolation.privileged and wanted is None):
        return None
    profile = json.dumps(wanted) if isinstance(wanted, dict) else None
    return _compiled(profile, frozenset(confinement.bounding_set(spec)))


@functools.lru_cache(maxsize=8)
def _compiled(profile: str | None, capabilities: frozenset[str]) -> bytes:
    """The filter of a profile in JSON, or of the default one; each install asks twice, and of many it is the same."""
    document = json.loads(profile) if profile is not None else seccomp.default_profile()
    return seccomp.compile(document, capabilities)


def modified(spec: Spec, layout: Layout) -> float:
    """When what a start reads was last changed: seconds since the epoch."""
    directory = layout.containers / spec.name
    return _latest(
        unit_path(layout, spec.name),
        directory / "config.json",
        directory / "start.json",
        directory / "seccomp.bpf",
        *(layout.units / unit for unit in activation.sockets(spec)),
        *(object_path(layout, SECRET, name) for name in spec.supplies.names(SECRET)),
    )


def _latest(*paths: Path) -> float:
    """When one of *paths* was last changed, of those that are there."""
    latest = 0.0
    for path in paths:
        with suppress(FileNotFoundError):
            latest = max(latest, path.stat().st_mtime)
    return latest


def adjusted_path(layout: Layout, name: str) -> Path:
    """The file whose time says when the payload got at once what had been changed in its files (gear/live.py)."""
    return layout.containers / name / "adjusted"


def is_stale(spec: Spec, layout: Layout, service: dict[str, Any]) -> bool:
    """Whether the running payload was started from other files than there are now, or has not got what changed."""
    started = float(service.get("ExecMainStartTimestamp", 0)) / 1e6
    adjusted = max(started, _latest(adjusted_path(layout, spec.name)))
    stale = modified(spec, layout) > adjusted
    if spec.supplies.configs:
        read = max(started, _latest(layout.containers / spec.name / provision.RELOADED))
        configs = (provision.config_path(layout, spec.name, name) for name in spec.supplies.names(CONFIG))
        stale = stale or _latest(*configs) > read
    return bool(service.get("MainPID")) and stale


def require_installed(spec: Spec) -> None:
    """Raise UsageError for ports that only an installed container can have: PID 1 listens for it."""
    if activation.sockets(spec):
        raise UsageError(
            "What is run once can't have ports of mode socket or fd, nor be started on demand.",
            hint="Use gear install.",
        )


def compare(rendered: dict[Path, bytes]) -> dict[Path, tuple[bytes | None, bytes]]:
    """The files of *rendered* that are not on disk as they should be: (found, expected) by path."""
    found = {path: files.read_bytes(path) for path in rendered}
    for path, content in found.items():
        if path.name == hostsfile.NAME and content is not None:
            found[path] = hostsfile.tidy(content, rendered[path])
    return {path: (found[path], expected) for path, expected in rendered.items() if found[path] != expected}


def existing(layout: Layout, name: str) -> Spec | None:
    """Like find(), but a damaged spec counts as none, so that installing again mends it."""
    try:
        return find(layout, name)
    except GearError:
        return None
