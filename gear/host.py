"""What this machine can do: privilege, kernel, controllers.  Asked before anything is changed."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gear.errors import HostError, UsageError

# Nearly all that is asked here is whether gear runs as root, by every verb: for that nothing more is imported.
if TYPE_CHECKING:
    from gear.budget import Budget
    from gear.isolation import Device
    from gear.spec import Spec

# Idmapped mounts as the lower layers of overlayfs: Linux 5.19.
_KERNEL = (5, 19)
_CGROUP = Path("/sys/fs/cgroup")
# Reapers that Debian has, statically linked: nothing of the host's libraries is inside.
_REAPERS = (
    "/usr/bin/catatonit",
    "/usr/bin/tini-static",
    "/usr/libexec/podman/catatonit",
    "/usr/bin/docker-init",
)
_PT_INTERP = 3
# The controller that a member of a budget needs, by how that begins.
_CONTROLLER_OF = {
    "cpus": "cpuset",
    "memory_nodes": "cpuset",
    "cpu": "cpu",
    "memory": "memory",
    "oom": "memory",
    "tasks": "pids",
    "io": "io",
    "hugepages": "hugetlb",
}


def require_root(doing: str) -> None:
    """Raise HostError unless gear runs as root."""
    if os.geteuid() != 0:
        raise HostError(f"Only root can {doing}.", hint="Run the same command with sudo.")


def systemd_version() -> int:
    """The number of systemd's version here; raises GearError."""
    from gear import process

    words = process.output(["systemctl", "--version"]).split()  # systemd 252 (252.39-1~deb12u1)
    return int("".join(itertools.takewhile(str.isdigit, words[1])) or "0")


def require_isolation(
    release: str | None = None, namespaces: Path = Path("/proc/sys/user/max_user_namespaces")
) -> None:
    """Raise HostError unless the kernel has what the default isolation needs."""
    release = release or os.uname().release
    match = re.match(r"([0-9]+)\.([0-9]+)", release)
    if match and (int(match[1]), int(match[2])) < _KERNEL:
        raise HostError(
            f"The kernel {release} is too old for containers with user ids of their own: idmapped layers need 5.19.",
            hint="Debian 12 and later have one that is new enough.",
        )
    try:
        allowed = int(namespaces.read_text())
    except (OSError, ValueError):
        allowed = 0
    if allowed <= 0:
        raise HostError(
            "User namespaces are switched off on this machine (user.max_user_namespaces is 0 or missing).",
            hint="sysctl -w user.max_user_namespaces=65536",
        )
    from gear.units import PYTHON

    if not os.access(PYTHON, os.X_OK):
        raise HostError(
            f"The start helper needs {PYTHON}, which is not there.", hint="apt-get install python3-minimal"
        )


def controllers(root: Path = _CGROUP) -> frozenset[str]:
    """The resource controllers that PID 1 can use here: those of cgroup v2, or the writable hierarchies of v1."""
    try:
        return frozenset((root / "cgroup.controllers").read_text().split())
    except OSError:
        names = {"memory": "memory", "cpu": "cpu", "pids": "pids", "blkio": "io", "cpuset": "cpuset"}
        return frozenset(v2 for v1, v2 in names.items() if os.access(root / v1, os.W_OK))


def require_controllers(spec: Spec, available: frozenset[str] | None = None) -> None:
    """Raise HostError for a limit that was asked for and that nothing here would enforce."""
    require_budget(spec.name, spec.resources, available)


def require_budget(name: str, wanted: Budget, available: frozenset[str] | None = None) -> None:
    """The same for the budget of a container or slice *name*."""
    available = controllers() if available is None else available
    from gear.budget import option

    for member in wanted.to_mapping():
        controller = next(found for word, found in _CONTROLLER_OF.items() if member.startswith(word))
        if controller not in available:
            raise HostError(
                f"{name} can't be limited by {option(member)}: this machine has no {controller} controller.",
                hint="Limits need cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1), or leave the option out.",
            )


def require_devices(name: str, wanted: Budget) -> None:
    """Raise UsageError for a device that is limited and not there: systemd would say nothing."""
    from gear.budget import option

    for member, value in wanted.to_mapping().items():
        for path in value if member.startswith("io_") and isinstance(value, dict) else ():
            if not os.path.exists(path):
                raise UsageError(
                    f"{name} can't be limited by {option(member)}: there is no {path} on this machine."
                )


def require_address_filter(spec: Spec, root: Path = _CGROUP) -> None:
    """Raise HostError for ranges of addresses that PID 1 would not enforce: it has BPF do so, on cgroup v2 alone."""
    limits = spec.network.limits
    if (limits.allow or limits.deny) and not (root / "cgroup.controllers").exists():
        raise HostError(
            f"{spec.name} can't be limited by --{'ip-allow' if limits.allow else 'ip-deny'}: "
            "systemd filters addresses with cgroup v2 alone.",
            hint="Boot with systemd.unified_cgroup_hierarchy=1, or leave the option out.",
        )


def require_security(spec: Spec, system: Path = Path("/sys")) -> None:
    """Raise HostError for what a container needs of the host and what is not there."""
    isolation = spec.isolation
    if isolation.apparmor not in (None, "unconfined"):
        enabled = _first_byte(system / "module/apparmor/parameters/enabled")
        if enabled != b"Y":
            raise HostError(
                f"{spec.name} can't have the AppArmor profile {isolation.apparmor}: AppArmor is off here."
            )
    if set(isolation.label) - {"disable"} and not (system / "fs/selinux/enforce").exists():
        raise HostError(f"{spec.name} can't have an SELinux label: SELinux is off on this machine.")
    if isolation.init is not None and not os.access(isolation.init, os.X_OK):
        raise HostError(
            f"{spec.name} can't have the reaper {isolation.init}: it is not on this machine.", hint=_HINT
        )


_HINT = "apt-get install catatonit"


def _first_byte(path: Path) -> bytes:
    try:
        return path.read_bytes()[:1]
    except OSError:
        return b""


def find_reaper(candidates: Sequence[str] = _REAPERS) -> str:
    """The path of a program that can be process 1 of any container; raises HostError when there is none."""
    for path in candidates:
        if os.access(path, os.X_OK) and _is_static(Path(path)):
            return path
    raise HostError("There is no reaper on this machine to be a container's first process.", hint=_HINT)


def _is_static(path: Path) -> bool:
    """Whether an ELF program needs no loader (elf(5)): a container need not have the host's, or any."""
    with path.open("rb") as file:
        header = file.read(64)
        if header[:4] != b"\x7fELF" or len(header) < 64:
            return False
        order: Literal["little", "big"] = "little" if header[5] == 1 else "big"
        wide = header[4] == 2
        number = int.from_bytes(header[56:58] if wide else header[44:46], order)
        size = int.from_bytes(header[54:56] if wide else header[42:44], order)
        file.seek(int.from_bytes(header[32:40] if wide else header[28:32], order))
        table = file.read(number * size)
    kinds = {int.from_bytes(table[place : place + 4], order) for place in range(0, len(table), size)}
    return _PT_INTERP not in kinds


def devices(source: str, destination: str, access: str) -> list[Device]:
    """The device node *source*, or those below it when it is a directory; raises UsageError when there is none."""
    try:
        status = os.stat(source)
    except OSError as error:
        raise UsageError(f"There is no device {source} on this machine: {error.strerror}.") from error
    if stat.S_ISDIR(status.st_mode):
        found = _devices_below(source, destination, access)
        if not found:
            raise UsageError(f"There is no device in {source}.")
        return found
    if not _is_device(source):
        raise UsageError(f"{source} is no device.", hint="A file or directory is mounted with --volume.")
    from gear.isolation import Device

    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    numbers = os.major(status.st_rdev), os.minor(status.st_rdev)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    return [Device(source, destination, access, kind, *numbers, mode, status.st_uid, status.st_gid)]


def _devices_below(source: str, destination: str, access: str) -> list[Device]:
    found = []
    for name in sorted(os.listdir(source)):
        path, inside = f"{source}/{name}", f"{destination}/{name}"
        if _is_device(path):
            found += devices(path, inside, access)
        elif os.path.isdir(path) and not os.path.islink(path):  # /dev/fd leads round
            found += _devices_below(path, inside, access)
    return found


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def require_zone(name: str, root: Path = Path("/usr/share/zoneinfo")) -> None:
    """Raise HostError unless this machine has the time zone *name*."""
    path = Path("/etc/localtime") if name == "local" else root / name
    if not path.is_file():
        raise HostError(
            f"There is no time zone {name} in the image nor on this machine.", hint="apt-get install tzdata"
        )
