"""The control groups of a container that runs, and which process in them is its payload: what gear exec asks first.

Asked of the kernel's files, not of PID 1: a call over the bus takes as long as all the rest of gear exec.
"""

from __future__ import annotations

import os

# Where control groups are mounted: version 2 beside version 1, systemd's own of version 1, version 2 alone.
HIERARCHIES = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup")
_MOUNTS = "/sys/fs/cgroup"


def slice_path(name: str) -> str:
    """The path of a slice's control group: a-b.slice lies in a.slice (systemd.slice(5))."""
    parts = name.removesuffix(".slice").split("-")
    return "".join("/" + "-".join(parts[: depth + 1]) + ".slice" for depth in range(len(parts)))


def processes(group: str) -> list[int]:
    """Every process of the control group *group* and of those below it, sorted."""
    found: set[int] = set()
    for hierarchy in HIERARCHIES:
        for directory, _, _ in os.walk(hierarchy + group):
            try:
                with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                    found.update(int(line) for line in file)
            except OSError:  # removed meanwhile, or a threaded group
                continue
        if found:
            break
    return sorted(found - {0})


def payload(group: str) -> int | None:
    """The first process of the container's pid namespace; None when that can't be told by looking.

    Processes of the host in the group mean that the container is being started or stopped: while its first process is
    set up, it is not inside yet.
    """
    first = []
    for pid in processes(group):
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                numbers = next(line for line in file if line.startswith(b"NSpid:")).split()[1:]
        except (OSError, StopIteration):
            continue
        if len(numbers) == 1:
            if _is_prober(pid):
                continue
            return None
        if len(numbers) == 2 and numbers[1] == b"1":
            first.append(pid)
    return first[0] if len(first) == 1 else None


def _is_prober(pid: int) -> bool:
    """Whether a process of the host is the container's prober.  A payload that pretends to be one hides itself only."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(256).split(b"\0")[3:4][0].endswith(b"/helper/current/health")
    except (OSError, IndexError):
        return False


def can_hear(pid: int, signal: int) -> bool:
    """Whether a process has a handler for *signal* or waits for it; the first of a pid namespace gets no others."""
    masks = {}
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(("SigCgt:", "SigBlk:")):
                    masks[line[:6]] = int(line[7:], 16)
    except OSError:
        return True
    return any(mask >> (signal - 1) & 1 for mask in masks.values())


def is_frozen(group: str) -> bool:
    """Whether the processes of *group* stand still (cgroup v2, cgroup.freeze)."""
    return frozen(group) or False


def frozen(group: str) -> bool | None:
    """The same, and None when there is no such group of version 2."""
    for hierarchy in HIERARCHIES:
        try:
            with open(f"{hierarchy}{group}/cgroup.freeze", "rb", buffering=0) as file:
                return file.read().strip() == b"1"
        except OSError:
            continue
    return None


def of_process(pid: int) -> list[tuple[str, str]]:
    """The control groups of a process: names of controllers (none for version 2) and path (cgroups(7))."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    return [(controllers, path) for _, controllers, path in lines]


def contains(pid: int, group: str) -> bool:
    """Whether *pid* is in *group* or below it."""
    try:
        return any(f"{path}/".startswith(f"{group}/") for _, path in of_process(pid))
    except OSError:
        return False


class Membership:
    """The control groups of process *pid*, for a process that is made to be in the same."""

    def __init__(self, pid: int) -> None:
        self._like = of_process(pid)
        self.descriptor: int | None = None
        for controllers, path in self._like:
            for mounted in ("/unified", "") if not controllers else ():
                try:
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                    self.descriptor = os.open(f"{_MOUNTS}{mounted}{path}", flags)
                    return
                except OSError:
                    continue

    def join(self, *, created_inside: bool) -> None:
        """Put the calling process into them; raises OSError when none could be joined."""
        refusal: OSError | None = None
        joined = created_inside
        for controllers, path in self._like:
            if not controllers and created_inside:
                continue
            # The calling thread, its process's only one, may move itself without the grace period of moving another.
            file = "tasks" if controllers else "cgroup.procs"
            for name in [controllers.removeprefix("name=")] if controllers else ["unified", ""]:
                try:
                    descriptor = os.open(f"{_MOUNTS}/{name}{path}/{file}", os.O_WRONLY | os.O_CLOEXEC)
                    try:
                        os.write(descriptor, b"0")
                    finally:
                        os.close(descriptor)
                    joined = True
                except FileNotFoundError:
                    continue
                except OSError as error:  # a hierarchy that somebody else manages, as in a nested host
                    refusal = error
                break
        if not joined:
            raise refusal or FileNotFoundError(2, "there are no control groups")
