"""Doing something in a namespace of a container that runs, and these namespaces themselves.

Not the engine that runs programs there; see gear/helper/enter.py.  Nothing of the container is executed or opened.
"""

from __future__ import annotations

import posix as os

from gear.helper import syscalls
from gear.helper.channel import FAILED, GO, Channel, pair
from gear.helper.failure import Failure, Step

# setns(2): whatever kind of namespace it is.
_ANY = 0
_SIGKILL = 9

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Namespaces:
    """The network and mount namespaces of process *pid* of the container *name*, and its user namespace.

    Raises Failure when *pid* is not of that container any more.
    """

    def __init__(self, pid: int, name: str, step: Step) -> None:
        step.doing = f"find the network of {name}"
        process = syscalls.pidfd_open(pid)
        try:
            self.network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self.mount = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            self.user: int | None = None  # the host's own
            if os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user"):
                self.user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
                groups = file.read().decode(errors="replace")
            # The descriptors are of the process that was looked at only if that is still there.
            syscalls.pidfd_send_signal(process, 0)
        except (FileNotFoundError, ProcessLookupError):
            groups = ""
        finally:
            os.close(process)
        if not any(f"/ctr-{name}.{kind}" in groups for kind in ("service", "scope")):
            raise Failure(f"{name} has ended meanwhile")


def within(
    namespace: int,
    work: Callable[[], None],
    step: Step,
    *,
    user: int | None = None,
    patience_s: int | None = None,
) -> None:
    """Have a child do *work* in *namespace*, with the rights of the user namespace *user* if given.

    It is killed when it takes longer than *patience_s*.  Raises Failure.
    """
    ours, theirs = pair()
    child = os.fork()
    if child == 0:
        message = FAILED + f"can't {step.doing}: the helper failed".encode()
        try:
            try:
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
                syscalls.setns(namespace, _ANY)
                if user is not None:
                    syscalls.setns(user, syscalls.CLONE_NEWUSER)
                work()
                message = GO
            except OSError as error:
                raise step.failure(error) from error
        except Failure as failure:
            message = FAILED + failure.message.encode(errors="surrogateescape")
        finally:
            theirs.send(message)
            os._exit(0)
    theirs.close()
    if patience_s is not None and not _answers(ours, patience_s):
        # Not waited for: in the kernel it may wait for what nobody answers.
        os.kill(child, _SIGKILL)
        raise Failure(f"can't {step.doing}: it took longer than {patience_s} s")
    message, _ = ours.receive()
    os.waitpid(child, 0)
    ours.close()
    if message != GO:
        words = (
            message.removeprefix(FAILED) or f"can't {step.doing}: the process that did it has died".encode()
        )
        raise Failure(words.decode(errors="surrogateescape"))


def _answers(channel: Channel, patience_s: int) -> bool:
    from select import POLLIN, poll

    waiting = poll()
    waiting.register(channel.fileno(), POLLIN)
    return bool(waiting.poll(patience_s * 1000))
