"""The helper's front end for units: `ExecStart=python3 -I -S .../start BUNDLE`.

Prepares the container, creates the payload as a child of PID 1, waits until it has become the image's program,
tells the service manager, and exits.  Whatever goes wrong before that is this process's exit status and one line
on standard error, which the journal keeps.
"""

from __future__ import annotations

import posix as os
import sys
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket

from gear.helper import container, rootfs
from gear.helper.bundle import load_json
from gear.helper.failure import Failure, Step
from gear.helper.payload import Start
from gear.helper.rights import Filter


def main(arguments: list[str]) -> int:
    """Start the container of the bundle directory *arguments[0]*; returns the exit status."""
    (bundle,) = arguments
    try:
        pid = start(bundle)
    except Failure as failure:
        print(f"gear: {failure.message}", file=sys.stderr, flush=True)
        _notify(f"STATUS={failure.message}")
        return failure.status
    # One message, so that the main process changes before the unit counts as started (sd_notify(3)).
    _notify(f"MAINPID={pid}\nREADY=1\nSTATUS=")
    return 0


class Unit(container.Events):
    """A container whose control group, limits and descriptors are systemd's doing, and whose root is stacked layers."""

    def __init__(self, bundle: str, config: dict, root: dict) -> None:  # type: ignore[type-arg]
        self._bundle = bundle
        self._config = config
        self._root = root

    def created(self, pid: int) -> None:
        """The process is in the unit's control group already; a container that manages groups of its own gets that."""
        for mount in self._config.get("mounts", ()):
            if mount.get("type") == "cgroup" and "ro" not in mount.get("options", ()):
                from gear.helper import delegation

                if delegation.is_wanted(self._config):
                    delegation.delegate(delegation.group_of(), self._config["linux"])

    def root(self, userns_fd: int | None, step: Step) -> int:
        """The layers of start.json."""
        rootfs.own_mount_namespace(step)
        return rootfs.assemble_root(self._bundle, self._root, userns_fd, step)


def start(bundle: str) -> int:
    """Create the container and its payload; returns the payload's pid once execve(2) has succeeded.

    Raises Failure; then nothing of the container is left but a process that is ending.
    """
    step = Step()
    try:
        # First: what is read next may be about to be replaced.
        rootfs.claim(bundle, step)
        if _exists(f"{bundle}/switch.json"):
            raise Failure(
                "a restore of a snapshot was interrupted, and gear clean or gear start has to finish it first"
            )
        step.doing = f"read the bundle {bundle}"
        config = load_json(f"{bundle}/config.json")
        extra = load_json(f"{bundle}/start.json")
        filter_ = read_filter(extra, step)
    except OSError as error:
        raise step.failure(error) from error
    if not any(entry["type"] == "network" for entry in config["linux"]["namespaces"]):
        _allow_low_ports()
    wanted = Start(filter_=filter_, cgroup2=has_cgroup2())
    return container.create(config, Unit(bundle, config, extra["root"]), wanted, clone_parent=True)


def read_filter(extra: dict, step: Step) -> Filter | None:  # type: ignore[type-arg]
    """The seccomp filter that start.json names; raises OSError: a filter that is wanted must be there."""
    path = extra.get("seccomp")
    if not path:
        return None
    step.doing = f"read the seccomp filter {path}"
    with open(path, "rb", buffering=0) as file:
        program = file.read()
    if not program or len(program) % 8:
        raise Failure(f"can't {step.doing}: it is damaged")
    return Filter(program)


def has_cgroup2() -> bool:
    """Whether there is a unified hierarchy, alone or beside the controllers of version 1."""
    return _exists("/sys/fs/cgroup/cgroup.procs") or _exists("/sys/fs/cgroup/unified/cgroup.procs")


def _allow_low_ports() -> None:
    from gear.helper import lowports

    try:
        lowports.allow()
    except (OSError, ValueError) as error:
        print(f"gear: this container can't use ports below 1024: {error}", file=sys.stderr, flush=True)


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def _notify(state: str) -> None:
    """Tell the service manager, as sd_notify(3) does."""
    address = os.environ.get(b"NOTIFY_SOCKET", b"")
    if not address:
        return
    if address.startswith(b"@"):  # in the abstract namespace, unix(7)
        address = b"\0" + address[1:]
    sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    sender.sendto(state.encode(errors="surrogateescape"), address)
    sender.close()
