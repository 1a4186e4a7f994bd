"""The payload of another container that runs: whose network namespace a container shares (`--net container:NAME`).

Found in the control group of its unit, since PID 1 can't be asked while it waits for this start.
"""

from __future__ import annotations

import posix as os

from gear.helper.bundle import load_json
from gear.helper.failure import Failure

# Where control groups are mounted: version 2 beside version 1, systemd's own of version 1, version 2 alone.
_HIERARCHIES = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup")


def payload(containers: str, name: str) -> int:
    """A process of the container *name* that is in its network namespace: the first one of its pid namespace.

    Raises Failure when it does not run.  *containers* is where all containers are.
    """
    try:
        slice_ = load_json(f"{containers}/{name}/spec.json").get("slice") or "container.slice"
    except OSError as error:
        raise Failure(f"can't share the network of {name}: there is no such container") from error
    parts = slice_.removesuffix(".slice").split("-")
    above = "".join(["/" + "-".join(parts[: depth + 1]) + ".slice" for depth in range(len(parts))])
    for hierarchy in _HIERARCHIES:
        for kind in ("service", "scope"):
            found = _first(_processes(f"{hierarchy}{above}/ctr-{name}.{kind}"))
            if found:
                return found
    raise Failure(f"can't share the network of {name}: it is not running")


def naming(containers: str, name: str) -> list[dict]:  # type: ignore[type-arg]
    """The mounts by which the container *name* knows names, as far as they are gear's own files; raises Failure."""
    state = containers.rpartition("/")[0]
    try:
        mounts = load_json(f"{containers}/{name}/config.json")["mounts"]
    except OSError as error:
        raise Failure(f"can't share the names of {name}: there is no such container") from error
    return [
        mount
        for mount in mounts
        if mount["destination"] in ("/etc/hosts", "/etc/resolv.conf")
        and mount["source"].startswith(f"{state}/")
    ]


def _processes(group: str) -> list[int]:
    """The processes of a control group and of those below it; none if there is no such group."""
    found: list[int] = []
    try:
        with open(f"{group}/cgroup.procs", encoding="ascii") as file:
            found += [int(line) for line in file.read().split()]
        for entry in os.listdir(group):
            if "." not in entry or entry.endswith((".service", ".scope", ".slice")):
                found += _processes(f"{group}/{entry}")
    except OSError:  # gone meanwhile, a file, or a threaded group
        pass
    return found


def _first(pids: list[int]) -> int:
    """The first process of a pid namespace one level down, or else, where the container has the host's pids, the first
    that is not in the host's network; 0 when there is none."""
    ours = os.readlink("/proc/self/ns/net")
    others = []
    for pid in sorted(pids):
        try:
            if os.readlink(f"/proc/{pid}/ns/net") == ours:
                continue  # of the host: it starts the container, or ends it
            with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
                status = file.read().split(b"\nNSpid:")[1].split(b"\n")[0].split()
        except (OSError, IndexError):
            continue
        if len(status) == 2 and status[1] == b"1":
            return pid
        others.append((len(status), pid))
    return min(others)[1] if others and min(others)[0] == 1 else 0
