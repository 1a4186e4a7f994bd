"""The OCI bundle of a container: config.json and the files beside it, as a pure function of spec and image.

Nothing here touches the host.  An image's labels and texts never become annotations or settings with a meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gear import attachment, confinement, naming, prober, provision
from gear.confinement import INIT, LOCALTIME, QUIET
from gear.definition import Definition
from gear.errors import UsageError
from gear.files import dump_json
from gear.members import container_path
from gear.model import Layout
from gear.mounting import SUBPATH, Mount, kernel_view
from gear.network import HOST
from gear.oci import Identity, Image
from gear.provision import Content
from gear.spec import Spec

# What gear/helper/rootfs.py knows a directory in a volume by.
HELPER_SUBPATH = "x-gear.subpath="
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# A volume's name may have 200 characters, a container's 63.
_SLUG = 120


def arguments(spec: Spec, image: Image) -> tuple[str, ...]:
    """The payload's argv; raises UsageError when there is none."""
    argv = command_line(spec, image)
    if not argv or not argv[0]:
        raise UsageError(
            f"{spec.name} has nothing to run: the image {spec.image.reference} names no command and none was given.",
            hint="Add one at the end: gear install IMAGE NAME -- COMMAND ARGUMENT...",
        )
    return argv


def command_line(spec: Spec, image: Image) -> tuple[str, ...]:
    """Entrypoint and command as Docker combines them, which may be nothing.

    An entrypoint given to install drops the image's command, which was written for another program.
    """
    if spec.entrypoint is not None:
        entrypoint, command = spec.entrypoint, spec.command or ()
    else:
        entrypoint = image.config.entrypoint or ()
        command = spec.command if spec.command is not None else image.config.cmd or ()
    return (*entrypoint, *command)


def is_system(spec: Spec, image: Image) -> bool:
    """Whether the payload is a whole system's first program."""
    return confinement.is_system(spec.isolation, command_line(spec, image))


def environment(
    spec: Spec, image: Image, home: str, *, zone_in_image: bool = False, content: Content | None = None
) -> dict[str, str]:
    """The payload's environment: defaults, then the image's, then that of environment sets, then its own."""
    result = {"PATH": DEFAULT_PATH, "HOME": home, "container": "gear"}
    if spec.isolation.uts != "host":
        result["HOSTNAME"] = spec.hostname or spec.name
    result.update(image.config.env)
    if (zone := spec.isolation.timezone) is not None:
        # By the environment: an image's /etc/localtime is a link, and a mount on it would cover another zone's file.
        result["TZ"] = zone if zone_in_image else f":{LOCALTIME}"
    result.update(provision.variables(spec, content or Content()))
    result.update(spec.env)
    return result


def anonymous_volume(container: str, destination: str) -> str:
    """The name of the volume for a directory that the image declares as one: readable, and unique."""
    # No dot: what follows the last one in the name is the directory, so no two containers share a volume by chance.
    slug = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "-" for c in destination[1:])
    if slug != destination[1:].replace("/", "-") or "-" in destination or len(slug) > _SLUG:
        digest = hashlib.sha256(destination.encode(errors="surrogateescape")).hexdigest()[:8]
        slug = f"{slug[:_SLUG]}-{digest}"
    return f"{container}.{slug}"


def effective_mounts(spec: Spec, image: Image) -> tuple[Mount, ...]:
    """What was asked for, and a volume for each directory that the image declares and nothing covers.

    Sorted so that a mount comes before those below it; of two on one place the later one counts.
    """
    wanted = {}
    for declared in image.config.volumes:
        destination = container_path(declared, "A volume that the image declares")
        if destination != "/" and kernel_view(destination) is None:
            wanted[destination] = Mount("volume", anonymous_volume(spec.name, destination), destination)
    for mount in spec.mounts:
        wanted[mount.destination] = mount
    return tuple(sorted(wanted.values(), key=lambda mount: mount.destination.split("/")))


def volume_directory(layout: Layout, name: str) -> Path:
    """Where the files of the volume *name* are."""
    return layout.volumes / name / "data"


def _mount_entry(mount: Mount, spec: Spec, layout: Layout) -> dict[str, Any]:
    """A mount that was asked for, in OCI's words."""
    entry: dict[str, Any] = {"destination": mount.destination}
    if mount.kind == "tmpfs":
        return entry | {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", *mount.options]}
    if mount.kind == "volume":
        data = str(volume_directory(layout, mount.source))
        options = ["bind", "idmap", "nodev", *mount.plain_options]
        if (path := mount.value(SUBPATH)) is not None:
            options.append(f"{HELPER_SUBPATH}{path}")
    else:
        data, recursive = mount.source, "rbind" in mount.options
        # With rbind, ids are mapped in every mount below as well.
        mapped = ["ridmap" if recursive and option == "idmap" else option for option in mount.plain_options]
        options = [*([] if recursive else ["bind"]), "nodev", *mapped]
    if not spec.own_ids:
        options = [option for option in options if option not in ("idmap", "ridmap")]
    if mount.owners is not None:
        options.append("ridmap" if "rbind" in options else "idmap")
        entry |= _mappings(mount, spec)
    return entry | {"type": "bind", "source": data, "options": options}


def _mappings(mount: Mount, spec: Spec) -> dict[str, Any]:
    """The one user and the one group of a mount that it is mapped for: all others can't own anything in it."""
    assert mount.owners is not None
    mapped = {}
    for member, on_host, inside in zip(("uidMappings", "gidMappings"), *mount.owners, strict=True):
        if inside >= spec.id_count:
            raise UsageError(
                f"{spec.name} can't have {mount.source} mounted for {inside}: it has {spec.id_count} ids."
            )
        mapped[member] = [{"containerID": on_host, "hostID": spec.uid_base + inside, "size": 1}]
    return mapped


def _files(spec: Spec, layout: Layout, *, zone_in_image: bool) -> list[tuple[str, str, tuple[str, ...]]]:
    """Single files to mount read-only: destination, source, options."""
    directory, isolation = layout.containers / spec.name, spec.isolation
    found: list[tuple[str, str, tuple[str, ...]]] = [
        ("/etc/hostname", "/etc/hostname" if isolation.uts == "host" else str(directory / "hostname"), QUIET)
    ]
    if spec.network.mode == HOST:
        # Resolved when the container starts, so a link to systemd-resolved's file is followed then.
        found += [(path, path, QUIET) for path in ("/etc/resolv.conf", "/etc/hosts")]
    elif spec.network.shared is None:  # else names go with addresses: the start takes the other's files
        where = layout.networks / spec.network.networks[0] if shares_hosts(spec) else directory
        found.append(("/etc/hosts", str(where / "hosts"), QUIET))
    if spec.network.interfaces:  # written by each start, from the host's
        found.append(("/etc/resolv.conf", str(directory / "resolv.conf"), QUIET))
    if isolation.init is not None:
        found.append((INIT, isolation.init, ("nosuid", "nodev")))
    if isolation.timezone is not None and not zone_in_image:
        local = isolation.timezone == "local"
        source = "/etc/localtime" if local else f"/usr/share/zoneinfo/{isolation.timezone}"
        found.append((LOCALTIME, source, QUIET))
    return found


def _mounts(spec: Spec, image: Image, layout: Layout, *, zone_in_image: bool) -> list[dict[str, Any]]:
    wanted = effective_mounts(spec, image)
    taken = {mount.destination for mount in wanted}
    mounts = confinement.kernel_mounts(spec, system=is_system(spec, image))
    mounts = [mount for mount in mounts if mount["destination"] not in taken]
    mounts += [_mount_entry(mount, spec, layout) for mount in wanted]
    # Last, so that a volume on /etc does not cover them.
    for destination, source, options in _files(spec, layout, zone_in_image=zone_in_image):
        if destination not in taken:
            entry = {"destination": destination, "type": "bind", "source": source}
            mounts.append(entry | {"options": ["bind", "ro", *options]})
    mounts += prober.notify_mount(spec, image, layout)
    return mounts + provision.mounts(spec, layout, taken)


def render(
    spec: Spec,
    image: Image,
    identity: Identity,
    layers: Sequence[Path],
    layout: Layout,
    *,
    seccomp: bytes | None = None,
    zone_in_image: bool = False,
    networks: Mapping[str, Definition] | None = None,
    neighbours: Sequence[str] = (),
    content: Content | None = None,
) -> dict[Path, bytes]:
    """The files of the bundle by their path: config.json (OCI runtime specification 1.0.2), start.json, hostname, hosts
    if it has one of its own, and seccomp.bpf when there is a filter.  *layers* are the directories of the image's
    layers, lowest first, *seccomp* is the compiled filter, *zone_in_image* says whether the image has the time zone,
    *networks* are the definitions of those it is on, *neighbours* the lines of hosts about others there, and *content*
    is what its configs and environment sets hold."""
    confinement.require_consistent(spec)
    naming.require_possible(spec.naming, spec.network)
    directory = layout.containers / spec.name
    hostname = spec.hostname or spec.name
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": _process(
            spec,
            image,
            identity,
            environment(spec, image, identity.home, zone_in_image=zone_in_image, content=content),
        ),
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "mounts": _mounts(spec, image, layout, zone_in_image=zone_in_image),
        "linux": _linux(spec),
    }
    if spec.isolation.uts == "private":
        config["hostname"] = hostname
    start: dict[str, Any] = {"root": _root(spec, layers, layout)}
    if spec.network.interfaces:
        start["network"] = attachment.start_member(spec.name, spec.network, networks or {}, spec.naming)
    if passed := attachment.descriptors(spec.network):
        start["descriptors"] = passed
    system = is_system(spec, image)
    if health := prober.start_member(spec, image, prober.stop_signal(spec, image, system=system)):
        start["health"] = health
    if health and health["ready"] == "notify":
        config["process"]["env"].append(f"NOTIFY_SOCKET={prober.NOTIFY_INSIDE}")
    if spec.network.shared is not None:
        start["join"] = spec.network.shared
    start |= provision.start_members(spec, identity, layout)
    if spec.resources.hugepages:
        start["hugepages"] = dict(spec.resources.hugepages)
    rendered = {
        directory / "config.json": dump_json(config),
        **provision.files(spec, layout, content or Content()),
    }
    if not shares_hosts(spec):
        rendered[directory / "hosts"] = hosts(spec, networks or {}, neighbours)
    rendered[directory / "hostname"] = f"{hostname}\n".encode()
    if seccomp is not None:
        start["seccomp"] = str(directory / "seccomp.bpf")
        rendered[directory / "seccomp.bpf"] = seccomp
    return rendered | {directory / "start.json": dump_json(start)}


def _root(spec: Spec, layers: Sequence[Path], layout: Layout) -> dict[str, Any]:
    """What the helper makes the root of (gear/helper/rootfs.py)."""
    # Topmost first, as overlayfs counts them.
    lower = [str(layer) for layer in reversed(layers)]
    if spec.ephemeral:
        return {"lower": lower, "ephemeral": True}
    writable = writable_layer(spec, layout)
    if spec.storage == "overlay":
        return {"lower": lower, "upper": str(writable / "upper"), "work": str(writable / "work")}
    return {"tree": str(writable / "root")}


def shares_hosts(spec: Spec) -> bool:
    """Whether the file of its network is /etc/hosts of the container, as it has nothing of its own there: so however
    many containers there are, most share one file."""
    alone = len(spec.network.interfaces) == 1 and not spec.naming.hosts
    return alone and spec.hostname in (None, spec.name)


def hosts(spec: Spec, networks: Mapping[str, Definition], neighbours: Sequence[str]) -> bytes:
    """What /etc/hosts of the container says; *neighbours* are lines about others on its networks."""
    own = " ".join(dict.fromkeys((spec.hostname or spec.name, spec.name)))
    text = attachment.LOOPBACK_LINES + attachment.hosts_lines(spec.network, own, networks, spec.naming)
    return (text + "".join(f"{line}\n" for line in neighbours)).encode()


def _process(spec: Spec, image: Image, identity: Identity, env: Mapping[str, str]) -> dict[str, Any]:
    user: dict[str, Any] = {
        "uid": identity.uid,
        "gid": identity.gid,
        "additionalGids": list(identity.groups),
    }
    if spec.isolation.umask is not None:
        user["umask"] = int(spec.isolation.umask, 8)
    reaper = [] if spec.isolation.init is None else [INIT, "--"]
    return {
        "user": user,
        "args": [*reaper, *arguments(spec, image)],
        # Sorted, so that what comes back from spec.json renders to the same bytes.
        "env": [f"{name}={content}" for name, content in sorted(env.items())],
        "cwd": spec.workdir or container_path(image.config.workdir or "/", "The image's working directory"),
        "capabilities": confinement.capabilities(spec, identity.uid),
        **confinement.process(spec),
    }


def _linux(spec: Spec) -> dict[str, Any]:
    isolation = spec.isolation
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in confinement.namespaces(spec)],
        "sysctl": confinement.sysctls(spec),
        "maskedPaths": confinement.masked_paths(isolation),
        "readonlyPaths": confinement.readonly_paths(isolation),
    }
    if spec.own_ids:
        mapping = [{"containerID": 0, "hostID": spec.uid_base, "size": spec.id_count}]
        linux |= {"uidMappings": mapping, "gidMappings": mapping}
    if isolation.devices and not confinement.all_devices(spec):
        linux["devices"] = confinement.devices(isolation)
    if (label := confinement.mount_label(isolation)) is not None:
        linux["mountLabel"] = label
    return linux


def writable_layer(spec: Spec, layout: Layout) -> Path:
    """The container's writable layer, or its own copy of the image's tree.

    Another image gets another, since overlayfs forbids changing what is below; so does another storage driver; and so
    does another kind of user ids, where files have the ids of the range.
    """
    digest = spec.image.digest or "host:" + hashlib.sha256(spec.image.reference.encode()).hexdigest()
    kind = "" if spec.isolation.userns == "auto" else f"-{spec.uid_base}"
    if spec.storage != "overlay":
        kind = f"-{spec.storage}"
    return layout.containers / spec.name / f"layer-{digest.rpartition(':')[2][:12]}{kind}"
