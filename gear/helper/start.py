"""The helper's front end for units: `ExecStart=python3 -I -S .../start BUNDLE`.

Prepares the container, creates the payload as a child of PID 1, waits until it has become the image's program,
tells the service manager, and exits.  Whatever goes wrong before that is this process's exit status and one line
on standard error, which the journal keeps.
"""

from __future__ import annotations

import posix as os
import sys

from gear.helper import container
from gear.helper.bundle import Filter, Start, claim, load_json
from gear.helper.failure import Failure, Step
from gear.helper.notify import notify

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from collections.abc import Callable

    from gear.helper.network import Network
    from gear.helper.ports import Reservation
    from gear.helper.watch import Watch


def main(arguments: list[str]) -> int:
    """Start the container of the bundle directory *arguments[0]*; returns the exit status."""
    (bundle,) = arguments
    try:
        pid, watch, config = start(bundle)
        if watch is not None:
            watch.go_on(pid, config)
    except Failure as failure:
        print(f"gear: {failure.message}", file=sys.stderr, flush=True)
        notify(f"STATUS={failure.message}")
        return failure.status
    # One message, so that the main process changes before the unit counts as started (sd_notify(3)).
    notify(f"MAINPID={pid}\nREADY=1\nSTATUS=")
    return 0


class Unit(container.Events):
    """A container whose control group, limits and descriptors are systemd's doing, and whose root is stacked layers.

    *network* has its ports taken; None for one without addresses.
    """

    def __init__(self, bundle: str, config: dict, extra: dict, network: Network | None) -> None:  # type: ignore
        self._bundle = bundle
        self._config = config
        self._root = extra["root"]
        self._network = network
        self._hugepages = extra.get("hugepages")

    def created(self, pid: int) -> None:
        """The process is in the unit's control group already; a container that manages groups of its own gets that."""
        if self._network is not None:
            self._network.connect(pid)
            self._network.link(pid)
        if self._hugepages:
            from gear.helper import delegation, hugepages

            hugepages.limit(delegation.group_of(), self._hugepages)
        for mount in self._config.get("mounts", ()):
            if mount.get("type") == "cgroup" and "ro" not in mount.get("options", ()):
                from gear.helper import delegation

                if delegation.is_wanted(self._config):
                    delegation.delegate(delegation.group_of(), self._config["linux"])

    def root(self, userns_fd: int | None, step: Step) -> int:
        """The layers of start.json."""
        from gear.helper import rootfs  # after the clone, beside the other process's imports

        rootfs.own_mount_namespace(step)
        return rootfs.assemble_root(self._bundle, self._root, userns_fd, step)

    def under_way(self) -> None:
        """Ports are published while the new process is busy with its mounts."""
        if self._network is not None:
            self._network.publish()


def start(bundle: str) -> tuple[int, Watch | None, dict]:  # type: ignore[type-arg]
    """Create the container and its payload; returns, once execve(2) has succeeded, the payload's pid, what looks after
    it if anything does, and config.json.

    Raises Failure; then nothing of the container is left but a process that is ending.
    """
    step = Step()
    try:
        # First: what is read next may be about to be replaced.
        claim(bundle, step)
        if _exists(f"{bundle}/switch.json"):
            raise Failure(
                "an upgrade or a restore of a snapshot was interrupted: gear clean or gear start has to finish it first"
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
    if extra.get("join"):
        join(config, bundle, extra["join"])
    network = None
    if extra.get("network") or b"published" in os.environ.get(b"LISTEN_FDNAMES", b""):
        # Also for one that has left its networks since PID 1 took the sockets of its ports.
        network = reserved(bundle, extra.get("network") or {}, wanted)
    if extra.get("descriptors"):
        from gear.helper import activation

        name = bundle.rstrip("/").rpartition("/")[2]
        wanted.passed = activation.find(extra["descriptors"], f"ctr-{name}.socket")
    provide(config, extra, None)
    watch = None
    if extra.get("health"):
        from gear.helper.watch import Watch

        try:
            watch = Watch(bundle, extra["health"], step)
        except OSError as error:
            raise step.failure(error) from error
    pid = container.create(config, Unit(bundle, config, extra, network), wanted, clone_parent=True)
    if network is not None:
        _store(network.reservation)
    return pid, watch, config


def provide(config: dict, extra: dict, read: Callable[[str], bytes] | None) -> None:  # type: ignore[type-arg]
    """Put the secrets and configs that start.json asks for into *config*; *read* gives a secret's value, None is for
    those of the unit.  Raises Failure."""
    if not extra.get("secrets") and not extra.get("configs"):
        return
    from gear.helper import supplies

    step = Step()
    try:
        supplies.own_configs(extra.get("configs") or [], step)
        if extra.get("secrets"):
            supplies.add(config, extra["secrets"], read or supplies.credential, step)
    except OSError as error:
        raise step.failure(error) from error


def join(config: dict, bundle: str, name: str) -> None:  # type: ignore[type-arg]
    """Have the container get the network namespace of the container *name*, which runs, and the names that are known
    there; raises Failure."""
    from gear.helper import neighbour

    containers = bundle.rstrip("/").rpartition("/")[0]
    pid = neighbour.payload(containers, name)
    for entry in config["linux"]["namespaces"]:
        if entry["type"] == "network":
            entry["path"] = f"/proc/{pid}/ns/net"
    taken = [mount["destination"] for mount in config["mounts"]]
    config["mounts"] += [
        mount for mount in neighbour.naming(containers, name) if mount["destination"] not in taken
    ]


def reserved(bundle: str, connected: dict, wanted: Start) -> Network:  # type: ignore[type-arg]
    """The container's network as start.json has it, its ports taken."""
    from gear.helper.network import Network

    network = Network(bundle, connected)
    reservation = network.reservation
    if reservation.is_outdated(network.ports):
        from gear.helper.ports import STORED

        notify(f"FDSTOREREMOVE=1\nFDNAME={STORED}")
        reservation.forget(network.ports)
    network.reserve()
    wanted.interfaces = network.interfaces
    if connected.get("resolver"):
        from gear.helper import resolver

        resolver.write(bundle, connected["resolver"])
    return network


def _store(reservation: Reservation) -> None:
    """Have PID 1 keep the sockets of published ports for as long as the unit lives, and only those.

    Before it takes another process for the main one, whose messages count.
    """
    if not reservation.changed:
        return
    from gear.helper.ports import STORED

    if reservation.stored:
        notify(f"FDSTOREREMOVE=1\nFDNAME={STORED}")
    # A socket that does not listen counts as hung up: not to be polled for that.
    notify(f"FDSTORE=1\nFDNAME={STORED}\nFDPOLL=0", [item.fileno() for item in reservation.sockets])


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
