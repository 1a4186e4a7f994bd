"""The cgroup of a host, made by its supervisor and removed after it.

nspawn with --keep-unit builds the container's cgroups below its own.  Where PID 1 is systemd the supervisor
runs in a delegated scope and stays in it; elsewhere nobody manages the tree, and gear-testhost/NAME is made
at its root.  Only the named and the unified hierarchy count: v1 controllers are read-only in a nested host.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PARENT = "gear-testhost"


def version(root: Path = ROOT) -> str:
    """'v2' when the controllers are in the unified hierarchy, 'v1' otherwise (hybrid too)."""
    return "v2" if (root / "cgroup.controllers").exists() else "v1"


def hierarchies(root: Path = ROOT) -> dict[str, Path]:
    """The name each hierarchy has in proc_pid_cgroup(5), and where it is mounted."""
    if version(root) == "v2":
        return {"0::": root}
    found = {"name=systemd": root / "systemd", "0::": root / "unified"}
    return {name: path for name, path in found.items() if (path / "cgroup.procs").exists()}


def parse(text: str) -> dict[str, str]:
    """Hierarchy name to path, from /proc/PID/cgroup."""
    paths = {}
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        paths["0::" if number == "0" else controllers] = path
    return paths


def of(pid: int | str) -> list[Path]:
    """The directories of a process in the hierarchies that count."""
    paths = parse(Path(f"/proc/{pid}/cgroup").read_text())
    return [top / paths[name].lstrip("/") for name, top in hierarchies().items() if name in paths]


def managed() -> bool:
    """Whether PID 1 is systemd, see sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def make(name: str) -> list[Path]:
    """Make the cgroups of a host and move this process into their 'keeper'; returns what is to be removed."""
    if managed():
        directories = of("self")
    else:
        directories = [top / PARENT / name for top in hierarchies().values()]
    for directory in directories:
        (directory / "host").mkdir(parents=True, exist_ok=True)
        (directory / "keeper").mkdir(exist_ok=True)
        (directory / "keeper/cgroup.procs").write_text("0")
        if version() == "v2":
            enable_controllers(directory)
    return directories


def enable_controllers(directory: Path) -> None:
    """Hand every controller of the unified hierarchy down to the host."""
    chain = [directory] if managed() else [ROOT, directory.parent, directory]
    for level in chain:
        words = (level / "cgroup.controllers").read_text().split()
        (level / "cgroup.subtree_control").write_text(" ".join(f"+{word}" for word in words))


def join(directories: list[Path], leaf: str) -> None:
    """Move the calling process."""
    for directory in directories:
        (directory / leaf / "cgroup.procs").write_text("0")


def leave() -> None:
    """Move the calling process out of the host's cgroups, where PID 1 does not do that itself."""
    if not managed():
        for top in hierarchies().values():
            (top / "cgroup.procs").write_text("0")


def remove(directories: list[Path], timeout_s: float = 5) -> None:
    """Remove the cgroups of a host whose processes have ended.

    A cgroup can stay busy for a moment after its last process was reaped.  A scope that is left over here is
    PID 1's to remove.
    """
    deadline = time.monotonic() + timeout_s
    for top in directories:
        for path, _, _ in os.walk(top, topdown=False):
            while not _rmdir(path) and time.monotonic() < deadline and not managed():
                time.sleep(0.005)
        if not managed():
            _rmdir(top.parent)


def _rmdir(path: str | Path) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
