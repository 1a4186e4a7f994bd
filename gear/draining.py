"""What becomes of clients while a container behind listening sockets of PID 1 is replaced: nobody is turned away.

`holding` tells proxies that start meanwhile to wait for the next payload (gear/helper/proxy.py).  `drain` has those
that run take nobody new and finish with whom they have: systemd-socket-proxyd(8) has no word for that, so its listening
socket is taken out of its set of epoll(7) by a child process that has both.  Who comes from then on waits in the
socket's queue, which is PID 1's and stays.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from gear import activation, files
from gear.helper import proxy, syscalls
from gear.spec import Spec
from gear.systemd import Manager

_PAUSE_S = 0.01
# A proxy that was just about to accept puts the socket back once.
_QUIET_ROUNDS = 4
# Seconds after which a proxy that has just been executed listens, however busy the machine is.
_BEGUN_S = 5.0
_EPOLL = "anon_inode:[eventpoll]"
# Where a child keeps what it works with, out of the way of the numbers that the other process has.
_ASIDE = 900


@contextmanager
def holding(name: str) -> Iterator[None]:
    """Proxies of *name* wait meanwhile, however long there is no payload; `release` ends that after SIGKILL."""
    path = Path(proxy.replacing(name))
    with files.explained(f"write {path}"):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.touch()
    try:
        yield
    finally:
        release(name)


def release(name: str) -> None:
    """Let proxies of *name* turn clients away again when there is no payload."""
    files.remove_file(Path(proxy.replacing(name)))


def drain(manager: Manager, spec: Spec, limit_s: float) -> None:
    """Have the proxies of *spec* that run accept nobody, and wait until they have nobody, *limit_s* at most."""
    pids = [int(manager.properties(unit, "Service").get("MainPID") or 0) for unit in activation.proxies(spec)]
    deaf = [pid for pid in pids if pid and _deafen(pid)]
    deadline = time.monotonic() + limit_s
    while any(map(_connections, deaf)) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)


def _deafen(pid: int) -> bool:
    """Have *pid* accept no more; False when it is no proxy, or the kernel has no word for it."""
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            quiet, seen, deadline = 0, False, time.monotonic() + _BEGUN_S
            while quiet < _QUIET_ROUNDS:
                taken = _take_out(pid)
                seen = seen or taken
                # One that still waits for the payload sees that it is being replaced, and goes on waiting.
                begins = not seen and _accepts(pid) and time.monotonic() < deadline
                quiet = 0 if taken or begins else quiet + 1
                time.sleep(_PAUSE_S)
            status = 0
        os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _accepts(pid: int) -> bool:
    """Whether *pid* has become the program that takes clients."""
    return os.path.basename(os.readlink(f"/proc/{pid}/exe")) == os.path.basename(proxy.PROGRAM)


def _take_out(pid: int) -> bool:
    """Take listening sockets out of the sets that *pid* waits for, once; tells whether there was one."""
    taken = False
    pidfd = _aside(os.pidfd_open(pid))
    for number in _descriptors(pid, _EPOLL):
        with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as file:
            watched = [int(line.split()[1]) for line in file if line.startswith("tfd:")]
        for target in watched:
            copy = _aside(syscalls.pidfd_getfd(pidfd, target))
            if _is_listening(copy):
                # The kernel knows what is in the set by the open file and the number it had.
                os.dup2(copy, target, inheritable=False)
                polled = _aside(syscalls.pidfd_getfd(pidfd, number))
                with suppress(FileNotFoundError):
                    select.epoll.fromfd(polled).unregister(target)
                    taken = True
            os.close(copy)
    os.close(pidfd)
    return taken


def _aside(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ASIDE)
    os.close(descriptor)
    return moved


def _descriptors(pid: int, kind: str) -> list[int]:
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(kind):
                found.append(int(number))
    return found


def _is_listening(descriptor: int) -> bool:
    try:
        with closing(socket.socket(fileno=os.dup(descriptor))) as found:
            return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # no socket
        return False


def _connections(pid: int) -> int:
    """How many connections *pid* has, of its clients and to the container."""
    count = 0
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        for number in _descriptors(pid, "socket:"):
            with (
                suppress(OSError),
                closing(socket.socket(fileno=syscalls.pidfd_getfd(pidfd, number))) as found,
            ):
                listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                count += found.family in (socket.AF_INET, socket.AF_INET6) and not listens
    except OSError:  # it has ended
        return 0
    finally:
        os.close(pidfd)
    return count
