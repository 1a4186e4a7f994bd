"""The helper's front end for units: `ExecStart=python3 -I -S .../start BUNDLE`.

Prepares the container, creates the payload as a child of PID 1, waits until it has become the image's program,
tells the service manager, and exits.  Whatever goes wrong before that is this process's exit status and one line
on standard error, which the journal keeps.
"""

from __future__ import annotations

import posix as os
import sys
from _signal import SIGKILL
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket

from gear.helper import lowports, payload, rootfs, syscalls
from gear.helper.bundle import load_json, namespace_flags
from gear.helper.channel import DESCRIPTORS, EXEC, FAILED, MOUNT, Channel, pair
from gear.helper.failure import EXIT_NAMESPACE, Failure, Step


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


def start(bundle: str) -> int:
    """Create the container and its payload; returns the payload's pid once execve(2) has succeeded.

    Raises Failure; then nothing of the container is left but a process that is ending.
    """
    step = Step()
    try:
        step.doing = f"read the bundle {bundle}"
        config = load_json(f"{bundle}/config.json")
        extra = load_json(f"{bundle}/start.json")
        # On the unified hierarchy, or on the one beside the controllers of version 1.
        cgroup2 = _exists("/sys/fs/cgroup/cgroup.procs") or _exists("/sys/fs/cgroup/unified/cgroup.procs")
        flags = namespace_flags(config)
        if not flags & syscalls.CLONE_NEWNET:
            _allow_low_ports()
        ours, theirs = pair()
        step.doing = "create the container's namespaces"
        # CLONE_PARENT: the payload becomes a child of PID 1, which then supervises it as it does any service;
        # a child of this process would be "not our child" to it once this process has gone.
        try:
            pid = syscalls.clone(flags | syscalls.CLONE_PARENT | syscalls.SIGCHLD)
        except OSError as error:
            if error.errno != 28:  # ENOSPC: a limit of namespaces(7) is reached
                raise
            raise Failure(
                f"can't {step.doing}: user.max_user_namespaces or another limit of namespaces is reached"
            ) from error
        if pid == 0:
            ours.close()
            payload.run(config, theirs, cgroup2)
        theirs.close()
        try:
            userns_fd = _map_ids(pid, config["linux"], step)
            rootfs.own_mount_namespace(step)
            descriptors = rootfs.bind_sources(config, userns_fd, step)
            descriptors.insert(0, rootfs.assemble_root(bundle, extra["root"], userns_fd, step))
            ours.send(DESCRIPTORS, descriptors)
            _follow(ours, pid, step)
        except (OSError, Failure):
            _end(pid, ours)
            raise
    except OSError as error:
        raise step.failure(error) from error
    return pid


def _allow_low_ports() -> None:
    try:
        lowports.allow()
    except (OSError, ValueError) as error:
        print(f"gear: this container can't use ports below 1024: {error}", file=sys.stderr, flush=True)


def _end(pid: int, channel: Channel) -> None:
    """End the container's first process, so that systemd finds nothing left of the unit."""
    try:
        os.kill(pid, SIGKILL)
        while channel.receive()[0]:
            pass
    except OSError:
        pass


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def _map_ids(pid: int, linux: dict, step: Step) -> int | None:  # type: ignore[type-arg]
    """Write the id maps of the new user namespace (user_namespaces(7)) and open it; None without one."""
    if not linux.get("uidMappings"):
        return None
    step.doing = "map the container's user ids"
    for file, key in (("uid_map", "uidMappings"), ("gid_map", "gidMappings")):
        lines = "".join(f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in linux[key])
        descriptor = os.open(f"/proc/{pid}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, lines.encode())
        os.close(descriptor)
    return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _follow(channel: Channel, pid: int, step: Step) -> None:
    """Serve the payload's process until it has become the payload; raises its Failure."""
    executing, failure = False, None
    while True:
        step.doing = "follow the container's first process"
        message, _ = channel.receive()
        if not message:  # it has closed its end: by execve(2), or because it has ended
            if failure is None and not executing:
                failure = Failure(
                    "the container's first process died while it was being set up", EXIT_NAMESPACE
                )
            if failure is not None:
                raise failure
            return
        if message == EXEC:
            executing = True
        elif message.startswith(FAILED):
            status, _, sentence = message.removeprefix(FAILED).decode(errors="surrogateescape").partition(" ")
            failure = Failure(sentence, int(status))
        elif message.startswith(MOUNT):
            _provide_mount(channel, pid, message.removeprefix(MOUNT).decode(), step)


def _provide_mount(channel: Channel, pid: int, filesystem: str, step: Step) -> None:
    """Make a proc or sysfs of the container's namespaces with the host's rights, and send it.

    Needed where the host's own /proc is partly covered, as inside nspawn or LXC: there the kernel refuses a user
    namespace a fresh one (mount_too_revealing() in fs/namespace.c), but not the host's root.
    """
    step.doing = f"make a {filesystem} for the container"
    if filesystem == "sysfs":
        _join(pid, "net", syscalls.CLONE_NEWNET)
        channel.send(DESCRIPTORS, [rootfs.new_instance(filesystem)])
        return
    # procfs shows the pid namespace of the process that makes it, and only a child can be in another one.
    _join(pid, "pid", syscalls.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            channel.send(DESCRIPTORS, [rootfs.new_instance(filesystem)])
            status = 0
        except OSError as error:
            print(f"gear: {step.failure(error).message}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        raise Failure(f"can't {step.doing}: the kernel refused it")


def _join(pid: int, namespace: str, kind: int) -> None:
    descriptor = os.open(f"/proc/{pid}/ns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(descriptor, kind)
    os.close(descriptor)


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
