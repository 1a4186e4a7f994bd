"""Joining a container that runs: a further process in all of its namespaces, with the rights of an OCI process object.

The container is hostile: nothing of it is executed or loaded before the joining process has given up the host's rights,
and until then nobody inside may look into it (CVE-2016-9962, CVE-2019-5736, CVE-2024-21626).
"""

from __future__ import annotations

import posix as os
from _signal import SIGKILL

from gear.helper import execute, payload, rights, syscalls
from gear.helper.bundle import NAMESPACES
from gear.helper.channel import EXEC, FAILED, LISTENER, PID, TERMINAL, Channel, pair
from gear.helper.container import NS_FILES, raise_failed
from gear.helper.failure import EXIT_NAMESPACE, Failure, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from gear.helper.bundle import Filter

    class Membership(Protocol):
        """The control groups that a joining process is to be in."""

        # A directory of the version 2 hierarchy in which the process is created; None: no such group.
        descriptor: int | None

        def join(self, *, created_inside: bool) -> None:
            """Put the calling process, which has the host's rights still, into the groups that it is not in yet."""


class Entry:
    """What a front end wants of a joining process, beside the OCI process object."""

    def __init__(
        self,
        *,
        filter_: Filter | None = None,
        keep: int = 0,
        kinds: tuple[str, ...] | None = None,
        mounts: int | None = None,
        membership: Membership | None = None,
        terminal: Callable[[int], None] | None = None,
        listener: Callable[[int], None] | None = None,
        keyring: bool = True,
        confirm: Callable[[], None] | None = None,
    ) -> None:
        self.filter = filter_  # the compiled seccomp filter
        self.keep = keep  # descriptors from 3 on that the program gets
        self.kinds = kinds  # the namespaces to join, by the specification's names; None: all
        self.mounts = mounts  # a descriptor of a mount namespace to join, when that is not among *kinds*
        self.membership = membership  # the control groups to be in; None: the caller's
        self.terminal = terminal  # gets the master when the process wants a terminal; closed afterwards
        self.listener = listener  # gets the descriptor of seccomp notifications; closed afterwards
        self.keyring = keyring  # a new session keyring
        # Raises Failure when the pid is not the container's any more; called when it can't become another's.
        self.confirm = confirm


def enter(pid: int, process: dict, entry: Entry) -> int:  # type: ignore[type-arg]
    """Run *process* (config.md, "Process") beside process *pid* of a container; returns the pid of the new process, a
    child of the caller, once it has executed its program.

    Raises Failure: the statuses EXIT_EXEC and EXIT_CHDIR tell that the program or its directory is at fault.
    """
    step = Step()
    try:
        step.doing = f"find the container's process {pid}"
        target = syscalls.pidfd_open(pid)
        try:
            if entry.confirm is not None:
                entry.confirm()
            flags = _different(pid, entry.kinds)
            # The descriptor stands for the process that was looked at only if that is still there.
            syscalls.pidfd_send_signal(target, 0)
            return _join(target, flags, process, entry, step)
        finally:
            os.close(target)
    except OSError as error:
        raise step.failure(error) from error


def _different(pid: int, kinds: tuple[str, ...] | None) -> int:
    """CLONE_NEW flags of the namespaces of *pid* that are not the caller's own: joining those again is an error."""
    flags = 0
    for kind, file in NS_FILES.items():
        if kinds is not None and kind not in kinds:
            continue
        try:
            ours = os.readlink(f"/proc/self/ns/{file}")
        except FileNotFoundError:
            continue  # a kernel without that kind
        # Never left out because it can't be seen: the program would run in the host's.
        if os.readlink(f"/proc/{pid}/ns/{file}") != ours:
            flags |= NAMESPACES[kind]
    return flags


def _join(target: int, flags: int, process: dict, entry: Entry, step: Step) -> int:  # type: ignore[type-arg]
    ours, theirs = pair()
    affinity = process.get("execCPUAffinity") or {}
    if affinity.get("initial"):
        from gear.helper.tasks import set_affinity

        step.doing = "set the processors to begin on"
        set_affinity(0, affinity["initial"])  # inherited; what has to be final is set later
    step.doing = "make a process"
    between, created_inside = _create(entry)
    if between == 0:
        ours.close()
        _between(target, flags, process, entry, theirs, created_inside)
    theirs.close()
    child = 0
    try:
        step.doing = "follow the process that joins the container"
        early: list[tuple[bytes, list[int]]] = []
        while not child:
            message, descriptors = ours.receive()
            if message.startswith(PID):
                child = int(message.removeprefix(PID))
            elif not message:
                raise_failed(early[-1][0] if early else b"")
            else:  # the child has been faster than the process that made it
                early.append((message, descriptors))
        os.waitpid(between, 0)
        between = 0
        _follow(ours, entry, early)
    except BaseException:  # an interrupt, too: nobody would know of what is left
        for pid in (between, child):
            if pid:
                os.kill(pid, SIGKILL)
                os.waitpid(pid, 0)
        raise
    finally:
        ours.close()
    return child


def _create(entry: Entry) -> tuple[int, bool]:
    """The pid of a new process, 0 in it, and whether it was created in its control group."""
    group = None if entry.membership is None else entry.membership.descriptor
    if group is not None:
        try:
            return syscalls.clone_into(group), True
        except OSError:  # whatever it is, joining the group will tell it with the group's name
            pass
    return syscalls.clone(syscalls.SIGCHLD), False


def _follow(channel: Channel, entry: Entry, early: list) -> None:  # type: ignore[type-arg]
    executing, failed = False, b""
    while True:
        message, descriptors = early.pop(0) if early else channel.receive()
        if not message:
            break
        if message == EXEC:
            executing = True
        elif message.startswith(FAILED):
            failed = message
        for descriptor in descriptors:
            if message == TERMINAL and entry.terminal is not None:
                entry.terminal(descriptor)
            elif message == LISTENER and entry.listener is not None:
                entry.listener(descriptor)
            os.close(descriptor)
    if failed or not executing:
        raise_failed(failed)


def _attributes(process: dict, step: Step) -> None:  # type: ignore[type-arg]
    """What is inherited, and only the host's root may set; for the calling process, which is in its control groups:
    joining a cpuset changes the affinity."""
    if process.get("oomScoreAdj") is not None:
        step.doing = "set the score of the OOM killer"
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(file, str(process["oomScoreAdj"]).encode())
        os.close(file)
    wanted = [
        key
        for key in ("rlimits", "scheduler", "ioPriority", "execCPUAffinity")
        if process.get(key) is not None
    ]
    if not wanted:
        return
    from gear.helper import tasks

    step.doing = "set limits and priorities"
    if "rlimits" in wanted:
        tasks.set_rlimits(0, process["rlimits"])
    if "scheduler" in wanted:
        tasks.set_scheduler(0, process["scheduler"])
    if "ioPriority" in wanted:
        tasks.set_io_priority(0, process["ioPriority"])
    if "execCPUAffinity" in wanted and process["execCPUAffinity"].get("final"):
        tasks.set_affinity(0, process["execCPUAffinity"]["final"])


def _between(target, flags: int, process, entry: Entry, channel: Channel, created_inside: bool) -> None:  # type: ignore
    """The process in between: it joins, so that its child is in the pid namespace as well."""
    step = Step()
    try:
        try:
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
            if entry.membership is not None:
                step.doing = "join the container's control group"
                entry.membership.join(created_inside=created_inside)
            _attributes(process, step)
            # The host's, for labels: nobody inside has made it.
            procfs = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if process.get("terminal"):
                from gear.helper import terminal  # noqa: F401
            payload.import_nothing_more()
            step.doing = "join the container's namespaces"
            if entry.mounts is not None:  # first: it takes the host's rights
                syscalls.setns(entry.mounts, syscalls.CLONE_NEWNS)
            if flags:
                syscalls.setns(target, flags)
            # The caller's child, not this process's, which ends now.
            pid = syscalls.clone(syscalls.CLONE_PARENT | syscalls.SIGCHLD)
            if pid == 0:
                _become(flags, process, entry, channel, procfs, step)
            channel.send(PID + str(pid).encode())
        except OSError as error:
            raise step.failure(error) from error
    except Failure as failure:
        channel.send(FAILED + f"{failure.status} {failure.message}".encode(errors="surrogateescape"))
    finally:
        os._exit(0)


def _become(flags: int, process: dict, entry: Entry, channel: Channel, procfs: int, step: Step) -> None:  # type: ignore
    try:
        try:
            _prepare(flags, process, entry, channel, step)
            execute.own_null()
            environment = execute.variables(process)
            rights.label(process, step, procfs)
            rights.prepare_exec(step, entry.keep, channel.fileno())
            payload.become(process, environment, step, entry.filter, channel)
        except OSError as error:
            raise step.failure(error) from error
    except Failure as failure:
        channel.send(FAILED + f"{failure.status} {failure.message}".encode(errors="surrogateescape"))
    except BaseException as error:  # a bug in gear: still told, since nobody else sees this process
        channel.send(FAILED + f"{EXIT_NAMESPACE} the helper failed: {error!r}".encode(errors="replace"))
    finally:
        os._exit(1)


def _prepare(flags: int, process: dict, entry: Entry, channel: Channel, step: Step) -> None:  # type: ignore[type-arg]
    if flags & syscalls.CLONE_NEWUSER:
        step.doing = "take the identity of the container's root"
        os.setresgid(0, 0, 0)
        os.setgroups([])
        os.setresuid(0, 0, 0)
    # A session of its own in any case: the caller's controlling terminal is not the container's.
    os.setsid()
    # Joining a user namespace may have made this process one that others may look into.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if entry.keyring:
        step.doing = "make a session keyring"
        try:
            syscalls.new_session_keyring()
        except syscalls.Unsupported:
            pass  # a kernel without keyrings shares none
    if process.get("terminal"):
        from gear.helper import terminal

        step.doing = "open the container's /dev/pts/ptmx"
        ptmx = terminal.open_ptmx()
        peer = terminal.make(ptmx, process, channel, step)
        os.close(ptmx)
        step.doing = "take the terminal"
        terminal.control(peer)
