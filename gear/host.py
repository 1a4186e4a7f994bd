"""What this machine can do: privilege, kernel, controllers.  Asked before anything is changed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gear.errors import HostError
from gear.spec import Spec
from gear.units import PYTHON

# Idmapped mounts as the lower layers of overlayfs: Linux 5.19.
_KERNEL = (5, 19)
_CGROUP = Path("/sys/fs/cgroup")


def require_root(doing: str) -> None:
    """Raise HostError unless gear runs as root."""
    if os.geteuid() != 0:
        raise HostError(f"Only root can {doing}.", hint="Run the same command with sudo.")


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
    wanted = {"memory": spec.memory, "cpu": spec.cpus, "pids": spec.pids_limit}
    available = controllers() if available is None else available
    for controller, value in wanted.items():
        if value is not None and controller not in available:
            option = {"memory": "--memory", "cpu": "--cpus", "pids": "--pids-limit"}[controller]
            raise HostError(
                f"{spec.name} can't be limited by {option}: this machine has no {controller} controller.",
                hint="Limits need cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1), or leave the option out.",
            )
