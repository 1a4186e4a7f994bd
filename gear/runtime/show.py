"""What is only told: state, list, ps, features, and the template of spec."""

from __future__ import annotations

import os

from gear.helper.failure import Failure
from gear.runtime import cgroups, lifecycle, validate
from gear.runtime.document import dumps, pretty
from gear.runtime.state import OCI_VERSION, Container, everything

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL".split()
)


def state(container: Container) -> str:
    """The state object."""
    return pretty(container.document(lifecycle.status(container)))


def listing(root: str, form: str, *, quiet: bool) -> str:
    """All containers."""
    documents = [container.document(lifecycle.status(container)) for container in everything(root)]
    if quiet:
        return "\n".join(document["id"] for document in documents)
    if form == "json":
        return dumps(documents)
    members = ("id", "pid", "status", "bundle", "created", "owner")
    rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    rows += [tuple(str(document[member]) for member in members) for document in documents]
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def processes(container: Container, form: str) -> str:
    """The processes of a container, by their pids on the host."""
    if container.status() == "stopped":
        raise Failure(f"container {container.name} is not running")
    found = cgroups.pids(container.data.get("group") or {}) or [container.pid]
    if form == "json":
        return dumps(found)
    rows: list[tuple[str, ...]] = [("UID", "PID", "PPID", "CMD")]
    for pid in found:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                parent = file.read().rpartition(b")")[2].split()[1].decode()
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
            uid = str(os.stat(f"/proc/{pid}").st_uid)
        except OSError:  # it has ended
            continue
        rows.append((uid, str(pid), parent, "".join(c if c.isprintable() else "?" for c in words)))
    return _table(rows)


def features() -> dict[str, Any]:
    """The features object (features.md): only what works, and the same on every machine."""
    from gear.helper.rights import CAPABILITIES

    capabilities = [f"CAP_{name}" for name in CAPABILITIES]
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(validate.HOOKS),
        "mountOptions": sorted(_mount_options()),
        "linux": {
            "namespaces": sorted(validate.NAMESPACES),
            "capabilities": capabilities,
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": [f"SCMP_ACT_{name}" for name in
                            "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG NOTIFY TRACE TRAP".split()],
                "operators": [f"SCMP_CMP_{name}" for name in "EQ GE GT LE LT MASKED_EQ NE".split()],
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": [f"SECCOMP_FILTER_FLAG_{name}" for name in
                               ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")],
                "supportedFlags": [f"SECCOMP_FILTER_FLAG_{name}" for name in
                                   ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {"modes": list(validate.MEMORY_MODES), "flags": list(validate.MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {},
    }  # fmt: skip


def _mount_options() -> list[str]:
    """Every option of mounts that config.md names and the helper carries out."""
    from gear.helper.options import ATTRIBUTES, FLAGS, PROPAGATION

    recursive = [f"r{name}" for name in ATTRIBUTES]
    return [*FLAGS, *recursive, *PROPAGATION, "bind", "defaults", "idmap", "rbind", "ridmap", "tmpcopyup"]


def template(*, rootless: bool) -> dict[str, Any]:
    """A config.json to begin with: a shell in ./rootfs, without rights that it does not need."""
    capabilities = [f"CAP_{name}" for name in _CAPABILITIES]
    namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    linux: dict[str, Any] = {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in namespaces],
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
            "/sys/devices/virtual/powercap",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    }  # fmt: skip
    if rootless:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.getuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getgid(), "size": 1}]
        del linux["resources"]
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: capabilities for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "gear",
        "mounts": [
            _mount("/proc", "proc"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            _mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        ],
        "linux": linux,
    }


def _mount(where: str, kind: str, *options: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": where, "type": kind, "source": kind}
    if options:
        mount["options"] = list(options)
    return mount
