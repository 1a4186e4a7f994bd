"""The OCI bundle of a container: config.json and the files beside it, as a pure function of spec and image.

Nothing here touches the host.  An image's labels and texts never become annotations or settings with a meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gear.errors import UsageError
from gear.files import dump_json
from gear.model import Layout
from gear.oci import Identity, Image
from gear.spec import UID_RANGE_SIZE, Mount, Spec, container_path, kernel_view

# Docker's default set (moby, oci/caps/defaults.go), valid inside the container's user namespace.
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
        "AUDIT_WRITE"
    ).split()
)
# Paths of procfs and sysfs that show the host or change it; the lists are Docker's and Podman's together.
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_QUIET = ("nosuid", "noexec", "nodev")
# A volume's name may have 200 characters, a container's 63.
_SLUG = 120


def arguments(spec: Spec, image: Image) -> tuple[str, ...]:
    """The payload's argv: entrypoint and command as Docker combines them; raises UsageError when it is empty.

    An entrypoint given to install drops the image's command, which was written for another program.
    """
    if spec.entrypoint is not None:
        entrypoint, command = spec.entrypoint, spec.command or ()
    else:
        entrypoint = image.config.entrypoint or ()
        command = spec.command if spec.command is not None else image.config.cmd or ()
    argv = (*entrypoint, *command)
    if not argv or not argv[0]:
        raise UsageError(
            f"{spec.name} has nothing to run: the image {spec.image.reference} names no command and none was given.",
            hint="Add one at the end: gear install IMAGE NAME -- COMMAND ARGUMENT...",
        )
    return argv


def environment(spec: Spec, image: Image, home: str) -> dict[str, str]:
    """The payload's environment: defaults, then the image's, then what was asked for."""
    result = {"PATH": DEFAULT_PATH, "HOME": home, "HOSTNAME": spec.hostname or spec.name, "container": "gear"}
    result.update(image.config.env)
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


def _kernel_mounts(spec: Spec) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": [*_QUIET]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*_QUIET, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": [*_QUIET]},
    ]
    if spec.net == "host":
        # The kernel gives a fresh sysfs only to the owner of the network namespace it would show.
        mounts.append(
            {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["bind", *_QUIET, "ro"]}
        )
    else:
        mounts.append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_QUIET, "ro"]})
    mounts.append(
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*_QUIET, "relatime", "ro"],
        }
    )
    return mounts


def _mounts(spec: Spec, wanted: Sequence[Mount], layout: Layout) -> list[dict[str, Any]]:
    directory = layout.containers / spec.name
    mounts = _kernel_mounts(spec)
    taken = {mount.destination for mount in wanted}
    mounts = [mount for mount in mounts if mount["destination"] not in taken]
    files = {"/etc/hostname": directory / "hostname"}
    if spec.net == "host":
        # Resolved when the container starts, so a link to systemd-resolved's file is followed then.
        files["/etc/resolv.conf"] = Path("/etc/resolv.conf")
        files["/etc/hosts"] = Path("/etc/hosts")
    else:
        files["/etc/hosts"] = directory / "hosts"
    for mount in wanted:
        entry: dict[str, Any] = {"destination": mount.destination}
        if mount.kind == "tmpfs":
            entry |= {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", *mount.options]}
        elif mount.kind == "volume":
            data = str(volume_directory(layout, mount.source))
            entry |= {"type": "bind", "source": data, "options": ["bind", "idmap", "nodev", *mount.options]}
        else:
            recursive = "rbind" in mount.options
            # With rbind, ids are mapped in every mount below as well.
            options = ["ridmap" if recursive and option == "idmap" else option for option in mount.options]
            how = [] if recursive else ["bind"]
            entry |= {"type": "bind", "source": mount.source, "options": [*how, "nodev", *options]}
        mounts.append(entry)
    # Last, so that a volume on /etc does not cover them.
    for destination, source in files.items():
        if destination not in taken:
            options = ["bind", "ro", *_QUIET]
            mounts.append(
                {"destination": destination, "type": "bind", "source": str(source), "options": options}
            )
    return mounts


def render(
    spec: Spec, image: Image, identity: Identity, layers: Sequence[Path], layout: Layout
) -> dict[Path, bytes]:
    """The files of the bundle by their path: config.json (OCI runtime specification 1.0.2), start.json, hosts
    and hostname.  *layers* are the directories of the image's layers, lowest first."""
    directory = layout.containers / spec.name
    hostname = spec.hostname or spec.name
    namespaces = ["pid", "mount", "ipc", "uts", "user", "cgroup"]
    sysctl = {}
    if spec.net != "host":
        namespaces.append("network")
        # As Docker does: a payload that is not root may use ports below 1024 and send pings, in its own network.
        sysctl = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 65535"}
    held = list(CAPABILITIES) if identity.uid == 0 else []
    mapping = [{"containerID": 0, "hostID": spec.uid_base, "size": UID_RANGE_SIZE}]
    cwd = spec.workdir or container_path(image.config.workdir or "/", "The image's working directory")
    env = environment(spec, image, identity.home)
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups)},
            "args": list(arguments(spec, image)),
            # Sorted, so that what comes back from spec.json renders to the same bytes.
            "env": [f"{name}={content}" for name, content in sorted(env.items())],
            "cwd": cwd,
            # Docker's rule: only root holds capabilities; the bounding set is what set-user-ID programs get.
            "capabilities": {
                "bounding": list(CAPABILITIES),
                "effective": held,
                "permitted": held,
                "inheritable": [],
                "ambient": [],
            },
        },
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "hostname": hostname,
        "mounts": _mounts(spec, effective_mounts(spec, image), layout),
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "sysctl": sysctl,
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READONLY),
        },
    }
    writable = writable_layer(spec, layout)
    start = {
        "root": {
            # Topmost first, as overlayfs counts them.
            "lower": [str(layer) for layer in reversed(layers)],
            "upper": str(writable / "upper"),
            "work": str(writable / "work"),
        },
    }
    hosts = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
    return {
        directory / "config.json": dump_json(config),
        directory / "start.json": dump_json(start),
        directory / "hosts": hosts.encode(),
        directory / "hostname": f"{hostname}\n".encode(),
    }


def writable_layer(spec: Spec, layout: Layout) -> Path:
    """The container's writable layer; another image gets another, since overlayfs forbids changing what is below."""
    return layout.containers / spec.name / f"layer-{spec.image.digest.rpartition(':')[2][:12]}"
