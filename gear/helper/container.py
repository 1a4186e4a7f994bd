"""Creating a container: the process that decides, its namespaces, and the process that becomes the payload.

One engine for both front ends: units (gear/helper/start.py), where PID 1 becomes the payload's parent, and the OCI
command line (gear/runtime/), where a container is created now and started later.  What differs between them is what
they give as Events.
"""

from __future__ import annotations

import posix as os
from _signal import SIGKILL
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket
from fcntl import ioctl

from gear.helper import syscalls
from gear.helper.bundle import NAMESPACES
from gear.helper.channel import (
    CREATED,
    DESCRIPTORS,
    EXEC,
    FAILED,
    GO,
    HOOKS,
    LISTENER,
    MOUNT,
    PID,
    TERMINAL,
    Channel,
    pair,
)
from gear.helper.failure import EXIT_NAMESPACE, Failure, Step

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from collections.abc import Callable

    from gear.helper.bundle import Start

_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
# Entries of /proc/PID/ns by the specification's names.
NS_FILES = {**{kind: kind for kind in NAMESPACES}, "network": "net", "mount": "mnt"}


class Events:
    """What a front end does at the points of a container's creation; each method may raise OSError and Failure."""

    def root(self, userns_fd: int | None, step: Step) -> int:
        """The root file system as a detached mount; *userns_fd* is the user namespace to map ids into."""
        raise NotImplementedError  # there is no root that suits all: each front end has its own

    def created(self, pid: int) -> None:
        """The container's first process is there and its ids are mapped; nothing else is set up.  The moment to put
        it into its control group: the root of its control group namespace is where it is now."""

    def under_way(self) -> None:
        """The first process has all it needs, and sets itself up meanwhile."""

    def runtime_hooks(self, pid: int) -> None:
        """Mounts are made, the root is not changed yet: prestart and createRuntime hooks, in the host's namespaces."""

    def terminal(self, master: int) -> None:
        """The master of the payload's terminal; a descriptor that is closed afterwards."""

    def listener(self, descriptor: int) -> None:
        """The descriptor that gets the seccomp filter's notifications; closed afterwards."""


def create(config: dict, events: Events, start: Start, *, clone_parent: bool = False) -> int:  # type: ignore
    """Create the container of *config* (OCI runtime specification); returns its first process's pid.

    Without `start.start_socket` that process has executed the payload when this returns.  With it, all is set up
    and the process waits for begin().  With *clone_parent* it is a child of the caller's parent.
    Raises Failure; then nothing of the container is left but a process that is ending.
    """
    step = Step()
    ours: Channel | None = None
    pid = 0
    try:
        joined = _open_namespaces(config["linux"].get("namespaces", ()), step)
        try:
            ours, theirs = pair()
            if not clone_parent or joined:
                # In a mount namespace of others, what has our modules' names may be anything.
                from gear.helper import payload

                payload.import_ahead(config, start)
            pid = _spawn(config, start, joined, (ours, theirs), step, clone_parent)
            theirs.close()
            from gear.helper import rootfs  # while the first process imports what it needs

            userns_fd = _user_namespace(pid, config["linux"], joined, step)
            step.doing = "put the container into its control group"
            events.created(pid)
            _attributes(pid, config.get("process") or {}, _owner(config["linux"]), step)
            descriptors = rootfs.bind_sources(config, userns_fd, step)
            if userns_fd is not None and config["linux"].get("devices"):
                from gear.helper.devices import make_sources

                descriptors += make_sources(config["linux"]["devices"], config["linux"], step)
            descriptors.insert(0, events.root(userns_fd, step))
            ours.send(DESCRIPTORS, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            events.under_way()
            _follow(ours, pid, events, step)
        finally:
            for _, descriptor in joined:
                os.close(descriptor)
    except BaseException as error:  # an interrupt, too
        if pid and ours is not None:
            _end(pid, ours)
        if isinstance(error, OSError):
            raise step.failure(error) from error
        raise
    return pid


def _open_namespaces(namespaces: list, step: Step) -> list[tuple[str, int]]:  # type: ignore[type-arg]
    """Kind and descriptor of each namespace that is given by its path, in the order in which they are joined."""
    joined = []
    for entry in namespaces:
        path, kind = entry.get("path"), entry["type"]
        if not path:
            continue
        step.doing = f"join the {kind} namespace {path}"
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = ioctl(descriptor, _NS_GET_NSTYPE)
        except OSError:
            found = 0
        if found != NAMESPACES[kind]:
            raise Failure(f"can't {step.doing}: that is no {kind} namespace")
        joined.append((kind, descriptor))
    # The user namespace last: before it, the host's rights are enough for all others.
    joined.sort(key=lambda item: item[0] == "user")
    return joined


def _spawn(config, start, joined, channels, step, clone_parent: bool) -> int:  # type: ignore[no-untyped-def]
    """Create the first process, in new namespaces and in those of *joined*; returns its pid."""
    ours, theirs = channels
    flags = syscalls.CLONE_NEWNS
    for entry in config["linux"].get("namespaces", ()):
        # The control group and time namespaces are made later by the process itself.
        if not entry.get("path") and entry["type"] not in ("cgroup", "time"):
            flags |= NAMESPACES[entry["type"]]
    if any(kind == "mount" for kind, _ in joined):
        flags &= ~syscalls.CLONE_NEWNS
    parent = syscalls.CLONE_PARENT if clone_parent else 0
    if not joined:
        return _clone(config, start, channels, flags | parent, step)
    # A process in between joins; the first process is its sibling, so that it has the same parent either way.
    step.doing = "join the namespaces"
    between = syscalls.clone(parent | syscalls.SIGCHLD)
    if between == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
            for kind, descriptor in joined:
                step.doing = f"join the {kind} namespace"
                syscalls.setns(descriptor, NAMESPACES[kind])
            pid = _clone(config, start, (None, theirs), flags | syscalls.CLONE_PARENT, step)
            theirs.send(PID + str(pid).encode())
        except OSError as error:
            failure = step.failure(error)
            theirs.send(FAILED + f"{failure.status} {failure.message}".encode(errors="surrogateescape"))
        except Failure as failure:
            theirs.send(FAILED + f"{failure.status} {failure.message}".encode(errors="surrogateescape"))
        finally:
            os._exit(0)
    message, _ = ours.receive()
    if not clone_parent:
        os.waitpid(between, 0)
    if not message.startswith(PID):
        raise_failed(message)
    return int(message.removeprefix(PID))


def _clone(config, start, channels, flags: int, step: Step) -> int:  # type: ignore[no-untyped-def]
    ours, theirs = channels
    step.doing = "create the container's namespaces"
    # CLONE_PARENT: the payload becomes a child of PID 1, which then supervises it as it does any service;
    # a child of this process would be "not our child" to it once this process has gone.
    # What processes in a user namespace use of what the kernel counts by user (inotify instances, namespaces, queues of
    # messages, pending signals) it counts for the one who made that, too.  If root had made all of them, one container
    # could use up what the others and the host's own services have.
    owner = _owner(config["linux"])
    try:
        pid = _by(owner, lambda: syscalls.clone(flags | syscalls.SIGCHLD))
    except OSError as error:
        if error.errno != 28:  # ENOSPC: a limit of namespaces(7) is reached
            raise
        raise Failure(
            f"can't {step.doing}: user.max_user_namespaces or another limit of namespaces is reached"
        ) from error
    if pid == 0:
        if ours is not None:
            ours.close()
        _become(config, theirs, start)
    return pid


def _become(config, channel, start) -> None:  # type: ignore[no-untyped-def]
    """What the new process does: never back into the caller, which runs in the helper as well."""
    try:
        try:
            # Only now, while the helper stacks the layers.
            from gear.helper import payload
        except BaseException as error:
            channel.send(FAILED + f"{EXIT_NAMESPACE} the helper failed: {error!r}".encode(errors="replace"))
            raise
        payload.run(config, channel, start)
    finally:
        os._exit(1)


def _owner(linux: dict) -> int:  # type: ignore[type-arg]
    """Who is to make the container's user namespace: its root, by the host's number; 0 where none is made for it."""
    if any(entry["type"] == "user" and not entry.get("path") for entry in linux.get("namespaces") or ()):
        for entry in linux.get("uidMappings") or ():
            if entry["containerID"] == 0:
                number: int = entry["hostID"]
                return number
    return 0


def _by(owner: int, do: Callable[[], int]) -> int:
    """*do* with the user *owner* in effect, and all rights as they are; in the child that it may make, *do* alone."""
    if not owner:
        return do()
    bits = syscalls.prctl(syscalls.PR_GET_SECUREBITS)
    try:
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, bits | syscalls.SECBIT_NO_SETUID_FIXUP)
    except PermissionError:  # in a container without CAP_SETPCAP, where rights would be lost with the id
        return do()
    os.setresuid(-1, owner, -1)
    result = -1
    try:
        result = do()
    finally:
        if result:  # the child has no ids yet
            os.setresuid(-1, 0, -1)
            syscalls.prctl(syscalls.PR_SET_SECUREBITS, bits)
    return result


def _user_namespace(pid: int, linux: dict, joined: list[tuple[str, int]], step: Step) -> int | None:  # type: ignore
    """The container's user namespace, its ids mapped if it is new; None when it has none of its own."""
    for kind, descriptor in joined:
        if kind == "user":
            return os.dup(descriptor)
    if not any(entry["type"] == "user" for entry in linux.get("namespaces", ())):
        return None
    step.doing = "map the container's user ids"
    for file, key in (("uid_map", "uidMappings"), ("gid_map", "gidMappings")):
        lines = "".join(
            [f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in linux[key]]
        )
        descriptor = os.open(f"/proc/{pid}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, lines.encode())
        os.close(descriptor)
    return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _attributes(pid: int, process: dict, owner: int, step: Step) -> None:  # type: ignore[type-arg]
    """What only the host's root may set for the payload's process; *owner* is the one of its new user namespace."""
    if process.get("oomScoreAdj") is not None:
        step.doing = "set the score of the OOM killer"
        file = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(file, str(process["oomScoreAdj"]).encode())
        os.close(file)
    if process.get("rlimits"):
        from gear.helper.tasks import set_rlimits

        step.doing = "set the resource limits"
        # As the user namespace's owner also a root without CAP_SYS_RESOURCE may, in a container of others, say.
        _by(owner, lambda: set_rlimits(pid, process["rlimits"]))
    if process.get("scheduler"):
        from gear.helper.tasks import set_scheduler

        step.doing = "set the scheduling policy"
        set_scheduler(pid, process["scheduler"])
    if process.get("ioPriority"):
        from gear.helper.tasks import set_io_priority

        step.doing = "set the I/O priority"
        set_io_priority(pid, process["ioPriority"])


def _end(pid: int, channel: Channel) -> None:
    """End the container's first process, so that nothing of it is found later."""
    try:
        os.kill(pid, SIGKILL)
        while channel.receive()[0]:
            pass
    except OSError:
        pass  # it has ended already, or what it still sends can't be received: it is killed either way
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # it is the child of PID 1, which waits for it


def raise_failed(message: bytes) -> None:
    """Raise the Failure that *message* tells of; an empty one means that the process has died."""
    if message.startswith(FAILED):
        status, _, sentence = message.removeprefix(FAILED).decode(errors="surrogateescape").partition(" ")
        raise Failure(sentence, int(status))
    raise Failure("the container's first process died while it was being set up", EXIT_NAMESPACE)


def _follow(channel: Channel, pid: int, events: Events, step: Step) -> None:
    """Serve the first process until it waits to be started or has become the payload; raises its Failure."""
    executing, failed = False, b""
    while True:
        step.doing = "follow the container's first process"
        message, descriptors = channel.receive()
        if message == CREATED:
            return
        if not message:  # it has closed its end: by execve(2), or because it has ended
            if failed or not executing:
                raise_failed(failed)
            return
        if message == EXEC:
            executing = True
        elif message.startswith(FAILED):
            failed = message
        elif message.startswith(MOUNT):
            _provide_mount(channel, pid, message.removeprefix(MOUNT).decode(), step)
        elif message == HOOKS:
            events.runtime_hooks(pid)
            channel.send(GO)
        else:
            _hand_out(message, descriptors, events)


def _hand_out(message: bytes, descriptors: list[int], events: Events) -> None:
    for descriptor in descriptors:
        if message == TERMINAL:
            events.terminal(descriptor)
        elif message == LISTENER:
            events.listener(descriptor)
        os.close(descriptor)


def begin(path: str, events: Events) -> None:
    """Start the container that waits at the socket *path*; returns when it has executed its payload.

    Raises Failure, and OSError when nobody waits there.
    """
    connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    connection.connect(path)
    channel = Channel(connection)
    executing, failed = False, b""
    while True:
        message, descriptors = channel.receive()
        if not message:
            break
        if message == EXEC:
            executing = True
        elif message.startswith(FAILED):
            failed = message
        else:
            _hand_out(message, descriptors, events)
    channel.close()
    if failed or not executing:
        raise_failed(failed)


def _provide_mount(channel: Channel, pid: int, filesystem: str, step: Step) -> None:
    """Make a proc or sysfs of the container's namespaces with the host's rights, and send it.

    Needed where the host's own /proc is partly covered, as inside nspawn or LXC: there the kernel refuses a user
    namespace a fresh one (mount_too_revealing() in fs/namespace.c), but not the host's root.
    """
    from gear.helper import rootfs

    step.doing = f"make a {filesystem} for the container"

    def sysfs() -> list[int]:
        join(pid, "network")
        return [rootfs.new_instance(filesystem)]

    def proc() -> list[int]:
        # procfs shows the pid namespace of the process that makes it, and only a child can be in another one.
        join(pid, "pid")
        return rootfs.in_child(lambda: [rootfs.new_instance(filesystem)], 1, step)

    (instance,) = rootfs.in_child(sysfs if filesystem == "sysfs" else proc, 1, step)
    channel.send(DESCRIPTORS, [instance])
    os.close(instance)


def join(pid: int, kind: str) -> None:
    """Enter the namespace of *kind* (the specification's name) that *pid* is in."""
    descriptor = os.open(f"/proc/{pid}/ns/{NS_FILES[kind]}", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(descriptor, NAMESPACES[kind])
    os.close(descriptor)
