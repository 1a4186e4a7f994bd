"""From the start of a container to the prober that looks after it (gear/helper/health.py), in one process.

The process that has made the container stays, since it is in the unit's control group already, and becomes another
program: what it holds of the start, descriptors, memory and a mount namespace, would live as long as the container.
"""

from __future__ import annotations

import posix as os
import sys
from _signal import SIGKILL
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket

from gear.helper import delegation, syscalls
from gear.helper.failure import Step
from gear.helper.notify import notify

# Beside config.json, and mounted into the container for its sd_notify(3).
SOCKET = "notify"


class Watch:
    """What the prober needs of the time before the container is made.  *asked* is `health` of start.json."""

    def __init__(self, bundle: str, asked: dict, step: Step) -> None:  # type: ignore[type-arg]
        step.doing = "keep the host's mount namespace"
        self._mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._bundle = bundle
        self._asked = asked
        self._listener: socket | None = None
        if asked["ready"] == "notify":
            step.doing = "make a socket for the payload's notifications"
            self._listener = _listen(bundle)

    def go_on(self, pid: int, config: dict) -> None:  # type: ignore[type-arg]
        """Tell PID 1 of the payload *pid*, and become the prober; raises Failure, when the payload has been killed."""
        step = Step()
        try:
            if self._asked["ready"] == "started":
                notify(f"MAINPID={pid}\nREADY=1\nSTATUS=starting")
            else:
                notify(f"MAINPID={pid}\nSTATUS=starting")
            step.doing = "return to the host's mount namespace"
            syscalls.setns(self._mounts, syscalls.CLONE_NEWNS)
            if delegation.is_wanted(config):
                step.doing = "make a control group for the prober"
                _move_aside()
            step.doing = "become the prober"
            # The start's place in the command line is that of the script; before it are the interpreter's options.
            words = sys.orig_argv[:-1]
            script = f"{words.pop().rpartition('/')[0]}/health"
            listener = -1
            if self._listener is not None:
                listener = self._listener.fileno()
                os.set_inheritable(listener, True)
            syscalls.close_from(3, but=listener)
            os.execv("/proc/self/exe", [*words, script, self._bundle, str(pid), str(listener)])
        except OSError as error:
            os.kill(pid, SIGKILL)
            raise step.failure(error) from error


def _listen(bundle: str) -> socket:
    """A socket in the directory *bundle*, whose path may be longer than an address (unix(7))."""
    directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    place = f"/proc/self/fd/{directory}/{SOCKET}"
    try:
        try:
            os.unlink(place)
        except FileNotFoundError:
            pass
        listener = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        listener.bind(place)
        # Whoever sees it is in the container, and may be anybody there.
        os.chmod(place, 0o666)
    finally:
        os.close(directory)
    return listener


def _move_aside() -> None:
    """Leave the container's control group for one below it: with a process in it, the container could not give
    controllers to groups of its own (cgroups(7), "no internal processes")."""
    try:
        group = delegation.group_of()
    except FileNotFoundError:
        return  # version 1 has no such rule
    place = f"{group}/prober"
    try:
        os.mkdir(place, 0o755)
    except FileExistsError:
        pass
    file = os.open(f"{place}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, b"0")
    finally:
        os.close(file)
