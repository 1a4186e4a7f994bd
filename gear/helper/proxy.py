"""A published port's proxy, by its unit `ctr-NAME@PORT.service`: wait until something listens inside the container, and
become systemd-socket-proxyd(8), which passes on the connections that PID 1 has kept waiting.

    proxy UNIT PORT PATIENCE CONNECTIONS IDLE [ADDRESS...]

PORT is inside, at the first of the container's ADDRESSes where something listens; without any the proxy enters the
container's network namespace and goes to its loopback addresses.  PATIENCE and IDLE are seconds.

Whether something listens is read from the kernel's table: the payload sees no connection but those of clients.  When
nobody comes to listen, those who wait are turned away for a while, so that they know, and only then this ends: PID 1
starts it again for the next one, so what always fails is not tried in a loop.
"""

from __future__ import annotations

import posix as os
import sys
from _signal import SIG_DFL, SIG_IGN, SIGINT, signal
from _socket import AF_INET, AF_INET6, inet_pton, socket

from gear.helper import processes, syscalls
from gear.helper.failure import EXIT_EXEC, Failure, Step
from gear.helper.notify import notify

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from typing import NoReturn

PROGRAM = "/usr/lib/systemd/systemd-socket-proxyd"
_LOOPBACK = ("127.0.0.1", "::1")
_ANY = {4: "0.0.0.0", 6: "::"}
_LISTENS = "0A"  # TCP_LISTEN, net/tcp_states.h
_FIRST = 3  # SD_LISTEN_FDS_START
_PAUSE_S = 0.02
# PID 1 starts again what has ended by itself (RestartSec=).
_GRACE_S = 1.0
# Clients are turned away for so long after a failure.
_REFUSAL_S = 5.0
# As long as a stop takes at most where nothing else is said; then whoever replaces the container is no more.
_REPLACED_S = 10.0
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def main(arguments: list[str]) -> int:
    """Serve one unit; returns the exit status when there is nothing to pass connections on to."""
    unit, port, patience, connections, idle, *addresses = arguments
    step = Step()
    # What the container's unit sends when the payload has ended: for the proxy, which has nobody to pass on to then.
    signal(SIGINT, SIG_IGN)
    try:
        try:
            pid, address = _wait(unit, int(port), int(patience), addresses or list(_LOOPBACK), step)
            if not addresses:
                _enter(pid, step)
            _become(address, port, connections, idle, step)
        except OSError as error:
            raise step.failure(error) from error
    except Failure as failure:
        print(f"gear: {failure.message}", file=sys.stderr, flush=True)
        _turn_away()
        return 1


def _wait(unit: str, port: int, patience: int, addresses: list[str], step: Step) -> tuple[int, str]:
    """The payload's pid and the first of *addresses* where something listens; raises Failure when nothing does."""
    from select import select
    from time import monotonic

    name = unit.removeprefix("ctr-").removesuffix(".service")
    deadline = monotonic() + patience
    gone = None
    while (now := monotonic()) < deadline:
        step.doing = f"look for the payload of {unit}"
        pid = processes.payload(unit)
        if pid is None:
            gone = gone or now
            if now - gone > _GRACE_S and not _is_replaced(name):
                raise Failure(f"can't reach port {port} of {name}: it does not run; see journalctl -u {unit}")
            select([], [], [], _PAUSE_S)
            continue
        try:
            ended = syscalls.pidfd_open(pid)
        except OSError:
            continue  # just now
        gone = None
        step.doing = f"see what listens in {name}"
        patient = min(deadline, now + _REPLACED_S)
        while (now := monotonic()) < deadline:
            # One that is about to be replaced takes nobody new; whether this is the next one already can't be seen.
            if not _is_replaced(name) or now > patient:
                if address := choose(addresses, listening(pid, port)):
                    os.close(ended)
                    return pid, address
            if select([ended], [], [], _PAUSE_S)[0]:
                break
        os.close(ended)
    where = " or ".join(addresses)
    raise Failure(f"can't reach port {port} of {name}: nothing listens on {where} after {patience} s")


def replacing(name: str) -> str:
    """The file that is there while the container *name* is being replaced by another, which is worth waiting for."""
    return f"/run/gear-replacing/{name}"


def _is_replaced(name: str) -> bool:
    try:
        os.stat(replacing(name))
    except OSError:
        return False
    return True


def listening(pid: int, port: int) -> set[str]:
    """Where something listens on *port* of the network namespace of *pid*: addresses as proc_net(5) writes them."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:  # no IPv6, or it has ended
            continue
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            if fields[3] == _LISTENS and int(number, 16) == port:
                found.add(address)
    return found


def choose(addresses: list[str], found: set[str]) -> str:
    """The first of *addresses* that *found* covers; empty if there is none."""
    for address in addresses:
        if found & {table_form(address), table_form(_ANY[6 if ":" in address else 4])}:
            return address
    # A socket for IPv6 takes IPv4 as well unless it says otherwise, which the table does not show.
    return addresses[0] if table_form(_ANY[6]) in found else ""


def table_form(address: str) -> str:
    """*address* as proc_net(5) has it: words of 32 bits in the machine's order."""
    packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    return "".join([f"{int.from_bytes(word, sys.byteorder):08X}" for word in words])


def _enter(pid: int, step: Step) -> None:
    """Join the network namespace of *pid*, and give up the capabilities that takes."""
    step.doing = "enter the container's network namespace"
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(namespace).st_ino == os.stat("/proc/self/ns/net").st_ino:
        # Never to the host's own loopback addresses: this would pass on to them whoever connects.
        raise Failure(f"can't {step.doing}: process {pid} has the host's")
    syscalls.setns(namespace, syscalls.CLONE_NEWNET)
    os.close(namespace)
    # The user is not root, so without these the next program has none.
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def _become(address: str, port: str, connections: str, idle: str, step: Step) -> NoReturn:
    step.doing = f"run {PROGRAM}"
    # Up to systemd 252 the proxy does not say so itself, and whoever waits for it is served from now on.
    notify("READY=1")
    signal(SIGINT, SIG_DFL)
    options = [f"--connections-max={connections}", f"--exit-idle-time={idle}"]
    try:
        # It splits at the last colon, and takes an address without brackets.
        os.execv(PROGRAM, [PROGRAM, *options, f"{address}:{port}"])
    except FileNotFoundError as error:
        raise Failure(f"can't {step.doing}: there is none on this machine", EXIT_EXEC) from error


def _turn_away() -> None:
    """Accept and close whatever connects, for a while."""
    from select import select
    from time import monotonic

    if os.environ.get(b"LISTEN_PID") != str(os.getpid()).encode():
        return
    waiting = [socket(fileno=_FIRST + number) for number in range(int(os.environ[b"LISTEN_FDS"]))]
    for item in waiting:
        item.setblocking(False)
    deadline = monotonic() + _REFUSAL_S
    while (rest := deadline - monotonic()) > 0:
        for item in select(waiting, [], [], rest)[0]:
            try:
                os.close(item._accept()[0])  # type: ignore[attr-defined]
            except OSError:
                continue  # the client has given up
