"""What the isolation of a container comes to: rights, namespaces, devices and kernel file systems, in OCI's words.

Pure.  gear/isolation.py says what was asked for, here are gear's defaults and what follows from the two; the bundle
(gear/bundle.py) and the unit (gear/units.py) put it into their files.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from gear.device_rules import NOTHING, STANDARD
from gear.errors import UsageError
from gear.isolation import ALL, ALL_CAPABILITIES, Isolation
from gear.network import FD, HOST
from gear.spec import Spec
from gear.tunables import sysctl_owner


def _full(names: str) -> tuple[str, ...]:
    return tuple(f"CAP_{name}" for name in names.split())


# Docker's default set (moby, oci/caps/defaults.go), valid inside the container's user namespace.
CAPABILITIES = _full(
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
# What a system in a user namespace of its own gets with --systemd always: systemd-nspawn's set.
SYSTEM_CAPABILITIES = CAPABILITIES + _full(
    "AUDIT_CONTROL DAC_READ_SEARCH IPC_OWNER LEASE LINUX_IMMUTABLE NET_ADMIN NET_BROADCAST SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_PTRACE SYS_RESOURCE SYS_TTY_CONFIG"
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
QUIET = ("nosuid", "noexec", "nodev")
SHM_SIZE = 64 << 20
# Where the reaper and the host's zone are inside.
INIT = "/run/gear/init"
LOCALTIME = "/run/gear/localtime"
# What an SELinux label is made of when only parts of it are given (containers-common).
_LABEL = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0"}
_UNLIMITED = (1 << 64) - 1
_SYSTEM_PROGRAMS = ("/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init")
_SYSTEM_TMPFS = (("/run", "755"), ("/run/lock", "1777"), ("/tmp", "1777"))


def is_system(isolation: Isolation, argv: Sequence[str]) -> bool:
    """Whether the payload is a whole system's first program, which wants its own cgroups, /run and stop signal."""
    if isolation.systemd != "auto" or isolation.init is not None:
        return isolation.systemd == "always"
    return bool(argv) and (argv[0] in _SYSTEM_PROGRAMS or argv[0].rpartition("/")[2] == "systemd")


def bounding_set(spec: Spec) -> tuple[str, ...]:
    """The capabilities that root of the container has."""
    isolation = spec.isolation
    added, dropped = set(isolation.cap_add), set(isolation.cap_drop)
    if both := sorted(added & dropped):
        raise UsageError(f"{both[0]} can't be both added and dropped.")
    base: tuple[str, ...] = CAPABILITIES
    if isolation.privileged or ALL in added:
        base = ALL_CAPABILITIES
    elif ALL in dropped:
        base = ()
    elif isolation.systemd == "always" and spec.own_ids:
        # Said by a person and not by an image: mounting and the like within its own user namespace.
        base = SYSTEM_CAPABILITIES
    more = [name for name in ALL_CAPABILITIES if name in added and name not in base]
    return tuple(name for name in (*base, *more) if name not in dropped)


def capabilities(spec: Spec, uid: int) -> dict[str, list[str]]:
    """OCI's five sets.

    Docker's rule: only root holds capabilities; the bounding set is what set-user-ID programs get.  Those that were
    asked for by name are Podman's exception: another user holds them, too, and passes them on to what it executes.
    """
    bounding = bounding_set(spec)
    asked = [name for name in bounding if name in spec.isolation.cap_add]
    held = list(bounding) if uid == 0 else asked
    passed = [] if uid == 0 else asked
    return {
        "bounding": list(bounding),
        "effective": held,
        "permitted": held,
        "inheritable": passed,
        "ambient": passed,
    }


def process(spec: Spec) -> dict[str, Any]:
    """Members of OCI's `process` that were asked for."""
    isolation = spec.isolation
    members: dict[str, Any] = {}
    if isolation.no_new_privileges:
        members["noNewPrivileges"] = True
    if isolation.apparmor not in (None, "unconfined"):
        members["apparmorProfile"] = isolation.apparmor
    if (label := _selinux(isolation)) is not None:
        members["selinuxLabel"] = ":".join(label.values())
    return members


def _selinux(isolation: Isolation) -> dict[str, str] | None:
    parts = [part.split(":", 1) for part in isolation.label if part != "disable"]
    return _LABEL | {key: value for key, value in parts} if parts else None


def mount_label(isolation: Isolation) -> str | None:
    """The SELinux label of files that matches the process's."""
    label = _selinux(isolation)
    return None if label is None else f"system_u:object_r:container_file_t:{label['level']}"


def namespaces(spec: Spec) -> list[str]:
    """The namespaces of its own, as OCI calls them."""
    isolation = spec.isolation
    own = {
        "pid": isolation.pid == "private",
        "mount": True,
        "ipc": isolation.ipc == "private",
        "uts": isolation.uts == "private",
        "user": spec.own_ids,
        "cgroup": isolation.cgroupns == "private",
        "network": spec.network.mode != HOST,
    }
    return [kind for kind, wanted in own.items() if wanted]


def sysctls(spec: Spec) -> dict[str, str]:
    """The kernel parameters to set; raises UsageError for one of a namespace that is the host's."""
    isolation = spec.isolation
    # As Docker does: a payload that is not root may use ports below 1024 and send pings, in its own network.
    found = {}
    own_network = spec.network.mode != HOST and spec.network.shared is None
    if own_network:
        last = min(spec.id_count, 65536) - 1
        found = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": f"0 {last}"}
    hosts = {"net": not own_network, "ipc": isolation.ipc == "host", "userns": not spec.own_ids}
    for name, value in isolation.sysctl.items():
        if (owner := sysctl_owner(name)) is not None and hosts[owner]:
            if owner == "net" and (other := spec.network.shared) is not None:
                raise UsageError(f"{name} can't be set for {spec.name}: its network is that of {other}.")
            raise UsageError(
                f"{name} can't be set for {spec.name}: with --{owner} host it is the host's own."
            )
        found[name] = value
    return found


def masked_paths(isolation: Isolation) -> list[str]:
    """What is hidden inside."""
    usual = () if isolation.privileged else tuple(path for path in MASKED if not _unmasked(path, isolation))
    return sorted({*usual, *isolation.mask})


def readonly_paths(isolation: Isolation) -> list[str]:
    """What can only be read inside."""
    return [] if isolation.privileged else [path for path in READONLY if not _unmasked(path, isolation)]


def _unmasked(path: str, isolation: Isolation) -> bool:
    return any(pattern == ALL or fnmatch.fnmatchcase(path, pattern) for pattern in isolation.unmask)


def devices(isolation: Isolation) -> list[dict[str, Any]]:
    """OCI's `linux.devices`: nodes owned by the ids inside that they have outside, as Docker makes them."""
    return [
        {
            "path": device.destination,
            "type": device.kind,
            "major": device.major,
            "minor": device.minor,
            "fileMode": device.mode,
            "uid": device.uid,
            "gid": device.gid,
        }
        for device in isolation.devices
    ]


def all_devices(spec: Spec) -> bool:
    """Whether the container has the host's own /dev and every device in it."""
    return spec.isolation.privileged and not spec.own_ids


def device_rules(spec: Spec) -> list[dict[str, Any]]:
    """OCI's rules: the devices the helper puts into /dev and those asked for; the kernel refuses every other, whatever
    node names it."""
    if all_devices(spec):
        return [{"allow": True, "access": "rwm"}]
    # By number: a name may mean another device by the time of the start.
    more = [
        {"allow": True, "type": d.kind, "major": d.major, "minor": d.minor, "access": d.access}
        for d in spec.isolation.devices
    ]
    return [NOTHING, *STANDARD, *more]


def kernel_mounts(spec: Spec, *, system: bool) -> list[dict[str, Any]]:
    """The kernel's file systems, in OCI's words."""
    isolation = spec.isolation
    mounts = [_mount("/proc", "proc", "proc", *QUIET)]
    if all_devices(spec):
        mounts.append(_mount("/dev", "bind", "/dev", "bind", "nosuid", "noexec"))
    else:
        options = ("nosuid", "noexec", "strictatime", "mode=755", "size=65536k")
        mounts.append(_mount("/dev", "tmpfs", "tmpfs", *options))
    # Group 5 is Debian's tty; ranges that are too short for it leave the nodes to their opener's group.
    group = ("gid=5",) if spec.id_count > 5 else ()
    options = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *group)
    mounts.append(_mount("/dev/pts", "devpts", "devpts", *options))
    if isolation.ipc == "host":
        mounts.append(_mount("/dev/shm", "bind", "/dev/shm", "bind", *QUIET))
        mounts.append(_mount("/dev/mqueue", "bind", "/dev/mqueue", "bind", *QUIET))
    else:
        size = (isolation.shm_size or SHM_SIZE) + 1023 >> 10
        mounts.append(_mount("/dev/shm", "tmpfs", "shm", *QUIET, "mode=1777", f"size={size}k"))
        mounts.append(_mount("/dev/mqueue", "mqueue", "mqueue", *QUIET))
    mounts.append(_sysfs(spec))
    mounts.append(_cgroup(isolation, writable=system or isolation.privileged))
    if system:
        mounts += [
            _mount(path, "tmpfs", "tmpfs", "nosuid", "nodev", f"mode={mode}") for path, mode in _SYSTEM_TMPFS
        ]
    return mounts


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _sysfs(spec: Spec) -> dict[str, Any]:
    writable = () if spec.isolation.privileged else ("ro",)
    if spec.network.mode == HOST and spec.own_ids:
        # The kernel gives a fresh sysfs only to the owner of the network namespace it would show.
        return _mount("/sys", "bind", "/sys", "bind", *QUIET, *writable)
    return _mount("/sys", "sysfs", "sysfs", *QUIET, *writable)


def _cgroup(isolation: Isolation, *, writable: bool) -> dict[str, Any]:
    if isolation.cgroupns == "host":
        # Nor a cgroup file system but to the owner of the cgroup namespace; and what is the host's is only shown.
        return _mount("/sys/fs/cgroup", "bind", "/sys/fs/cgroup", "rbind", *QUIET, "rro")
    return _mount("/sys/fs/cgroup", "cgroup", "cgroup", *QUIET, "relatime", *(() if writable else ("ro",)))


def unit_settings(spec: Spec, python: str, *, system: bool) -> list[tuple[str, str]]:
    """What the isolation adds to the section [Service] of the unit."""
    isolation = spec.isolation
    settings = [
        # PID 1 may raise hard limits; nothing in a user namespace may.
        (f"Limit{name.upper()}", value)
        for name, value in sorted(isolation.ulimits.items())
    ]
    if isolation.oom_score_adj is not None:
        settings.append(("OOMScoreAdjust", str(isolation.oom_score_adj)))
    if system or isolation.privileged:
        # The cgroups below the unit's own are the container's to make.
        settings.append(("Delegate", "yes"))
    if not spec.own_ids:
        # The container's root is the host's, and owns the interpreter that starts it (CVE-2019-5736).
        settings.append(("ReadOnlyPaths", python))
    return settings


def scope_process(spec: Spec) -> dict[str, Any]:
    """What unit_settings() has the service manager do for a service, as members of OCI's `process`: a scope has no
    such settings."""
    members: dict[str, Any] = {}
    if limits := spec.isolation.ulimits:
        members["rlimits"] = [
            {"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard}
            for name, value in sorted(limits.items())
            for soft, hard in [[_UNLIMITED if n == "infinity" else int(n) for n in value.split(":")]]
        ]
    if spec.isolation.oom_score_adj is not None:
        members["oomScoreAdj"] = spec.isolation.oom_score_adj
    return members


def require_consistent(spec: Spec) -> None:
    """Raise UsageError for requests that contradict each other."""
    isolation = spec.isolation
    if spec.image.directory is not None and spec.storage != "overlay" and not spec.ephemeral:
        raise UsageError(
            f"{spec.name} can't have the storage driver {spec.storage}: it would copy a directory of this machine.",
            hint="Use --storage-driver overlay, which copies nothing.",
        )
    if isolation.uts == "host" and spec.hostname is not None:
        raise UsageError(f"{spec.name} can't have a host name of its own with --uts host.")
    if isolation.ipc == "host" and isolation.shm_size is not None:
        raise UsageError(f"{spec.name} can't have a /dev/shm of its own size with --ipc host.")
    if isolation.systemd == "always" and isolation.pid == "host":
        raise UsageError(f"{spec.name} can't be a system with --pid host: systemd has to be process 1.")
    if isolation.systemd == "always" and isolation.init is not None:
        raise UsageError(f"{spec.name} can't have --init with --systemd always: systemd is a reaper itself.")
    if isolation.init is not None and spec.network.served_by(FD):
        raise UsageError(
            f"{spec.name} can't have --init with a port of mode fd: LISTEN_PID would be the reaper's.",
            hint="Leave --init out, or publish the port in another mode.",
        )
    taken = [device.destination for device in isolation.devices]
    for path in taken:
        if taken.count(path) > 1:
            raise UsageError(f"Two devices are asked for on {path}.")
