"""Every file of a container as it should be, from its specification and its image; and beside what is on disk.

Not who is installed, nor reading specifications: gear/containers.py, which verbs that render nothing do with.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path

from gear import (
    bundle,
    confinement,
    containers,
    definitions,
    envsets,
    files,
    hostsfile,
    seccomp,
    store,
    units,
)
from gear.errors import NotFoundError, UsageError
from gear.model import Layout
from gear.mounting import host_path
from gear.oci import Identity, Image, ImageConfig
from gear.outline import HOST_ROOT, ImageRef
from gear.records import replace
from gear.spec import Spec
from gear.view import View

# The largest file of tzdata has some 4 KiB.
_ZONE_LIMIT = 1 << 20


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
    rendered = {containers.spec_path(layout, spec.name): files.dump_json(spec.to_mapping()), **parts}
    run = containers.run_of(layout, spec.name)
    if run is None or run.kind == "service":
        remove = run.volumes if run is not None and run.remove else None
        text = units.render(spec, image, layout, transient=run is not None, remove=remove)
        rendered[containers.unit_path(layout, spec.name)] = text
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
    for name in containers.names(layout):
        spec = containers.existing(layout, name)
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


def compare(rendered: dict[Path, bytes]) -> dict[Path, tuple[bytes | None, bytes]]:
    """The files of *rendered* that are not on disk as they should be: (found, expected) by path."""
    found = {path: files.read_bytes(path) for path in rendered}
    for path, content in found.items():
        if path.name == hostsfile.NAME and content is not None:
            found[path] = hostsfile.tidy(content, rendered[path])
    return {path: (found[path], expected) for path, expected in rendered.items() if found[path] != expected}
