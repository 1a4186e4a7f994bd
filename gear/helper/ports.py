"""Ports of the host that a container takes: held by bound sockets, and who has one that is taken.

A port that nftables translates belongs to nobody as far as bind(2) knows.  So each is bound, but never listened on, by
a socket that PID 1 keeps for the unit (sd_notify(3), FDSTORE=1) and closes when the unit ends, however it ends: no
other container and no program of the host gets the same port meanwhile, and gear takes none that is in use.
"""

from __future__ import annotations

import posix as os
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_RCVBUF,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)

from gear.helper.bundle import load_json
from gear.helper.failure import Failure, Step
from gear.helper.rtnetlink import index_of
from gear.helper.sysctls import has_ipv6

_KINDS = {"tcp": SOCK_STREAM, "udp": SOCK_DGRAM}
_EADDRINUSE = 98
_IP_FREEBIND = 15  # linux/in.h
_FIRST = 3  # SD_LISTEN_FDS_START
# What the sockets are called in the unit's file descriptor store.
STORED = "published"
_TRIES = 100
_PAUSE_S = 0.005


def shown(port: dict) -> str:  # type: ignore[type-arg]
    """A port as people write it: 127.0.0.1:8080/tcp."""
    address = port["address"]
    host = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    return f"{host}{port['port']}/{port['protocol']}"


class Reservation:
    """The sockets of a container's ports.  *stored* are those of the unit that PID 1 has from an earlier start."""

    def __init__(self) -> None:
        self.stored = _inherited()
        self.sockets: list[socket] = []
        self._forgotten = False

    def is_outdated(self, wanted: list) -> bool:  # type: ignore[type-arg]
        """Whether PID 1 has sockets of ports that are not wanted any more; they may be in the way of those that are."""
        return any(_identity(item) not in map(_wanted, wanted) for item in self.stored)

    def forget(self, wanted: list) -> None:  # type: ignore[type-arg]
        """Close what is not wanted any more; PID 1 has been told to do the same with all."""
        for item in self.stored:
            if _identity(item) not in map(_wanted, wanted):
                item.close()
        self.stored = [item for item in self.stored if item.fileno() >= 0]
        self._forgotten = True

    @property
    def changed(self) -> bool:
        """Whether PID 1 has others than these."""
        return (
            self._forgotten
            or len(self.stored) != len(self.sockets)
            or any(item not in self.stored for item in self.sockets)
        )

    def take(self, wanted: list, name: str, containers: str, step: Step) -> None:  # type: ignore[type-arg]
        """Bind each of *wanted* (start.json's `ports`) for the container *name*.

        Raises Failure when one is taken, which says by whom, and OSError.  *containers* is where all containers are.
        """
        stored = {_identity(item): item for item in self.stored}
        for port in wanted:
            step.doing = f"publish port {shown(port)}"
            kept = stored.get(_wanted(port))
            try:
                self.sockets.append(kept or (_bind_soon if self._forgotten else _bind)(port))
            except OSError as error:
                if error.errno != _EADDRINUSE:
                    raise
                owner = owner_of(port, name, containers)
                raise Failure(f"can't {step.doing}: it is taken by {owner}") from error

    def close(self) -> None:
        """Give the ports back, but for what PID 1 has."""
        for item in self.sockets:
            item.close()


def _inherited() -> list[socket]:
    """The sockets that PID 1 has kept from an earlier start of the unit (sd_listen_fds(3))."""
    environment = os.environ
    if environment.get(b"LISTEN_PID") != str(os.getpid()).encode():
        return []
    names = environment.get(b"LISTEN_FDNAMES", b"").decode(errors="replace").split(":")
    return [socket(fileno=_FIRST + number) for number, name in enumerate(names) if name == STORED]


def _identity(bound: socket) -> tuple[int, bool, str, int, int]:
    """Family, whether for IPv6 only, address, type and port."""
    only = bound.family == AF_INET6 and bool(bound.getsockopt(IPPROTO_IPV6, IPV6_V6ONLY))
    address, port = bound.getsockname()[:2]
    return bound.family, only, address, bound.type, port


def _wanted(port: dict) -> tuple[int, bool, str, int, int]:  # type: ignore[type-arg]
    """The same of the socket that *port* takes."""
    return (*_place(port), _KINDS[port["protocol"]], port["port"])


def _bind_soon(port: dict) -> socket:  # type: ignore[type-arg]
    """Like _bind(), waiting for PID 1 to close what it was told to, which it does beside its other work."""
    from select import select

    for _ in range(_TRIES):
        try:
            return _bind(port)
        except OSError as error:
            if error.errno != _EADDRINUSE:
                raise
        select([], [], [], _PAUSE_S)
    return _bind(port)


def _place(port: dict) -> tuple[int, bool, str]:  # type: ignore[type-arg]
    """Family, whether for IPv6 only, and address to bind *port* to."""
    address = port["address"]
    if address:
        return (AF_INET6, True, address) if ":" in address else (AF_INET, False, address)
    families = {":" in to for to in port["to"]}
    if True not in families or not has_ipv6():
        return AF_INET, False, "0.0.0.0"
    return AF_INET6, False not in families, "::"


def _bind(port: dict) -> socket:  # type: ignore[type-arg]
    """A socket that is bound to *port* and does not listen."""
    family, only, address = _place(port)
    kind = _KINDS[port["protocol"]]
    made = socket(family, kind | SOCK_CLOEXEC)
    try:
        if family == AF_INET6:
            made.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, int(only))
        # An address may come later than the container, as with DHCP.  (For IPv6 the same option serves.)
        made.setsockopt(0, _IP_FREEBIND, 1)
        if kind == SOCK_STREAM:
            # Not hindered by old connections in TIME_WAIT; nobody else may share it afterwards.
            made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        else:
            made.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)  # nobody reads
        made.bind((address, port["port"]))
        if kind == SOCK_STREAM:
            made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)
    except BaseException:
        made.close()
        raise
    return made


def is_taken(port: dict) -> bool:  # type: ignore[type-arg]
    """Whether a program or a container has *port*."""
    both = {**port, "to": ["127.0.0.1", "::1"]}
    try:
        _bind(both).close()
    except OSError as error:
        return error.errno == _EADDRINUSE
    return False


def overlaps(one: dict, other: dict) -> bool:  # type: ignore[type-arg]
    """Whether two entries of `ports` are for the same port of the host."""
    if (one["protocol"], one["port"]) != (other["protocol"], other["port"]):
        return False
    first, second = one["address"], other["address"]
    if "" in (first, second) or first == second:
        return True
    wild = {"0.0.0.0", "::"} & {first, second}
    return bool(wild) and (":" in first) == (":" in second)


def container_with(port: dict, name: str, containers: str) -> str:  # type: ignore[type-arg]
    """Which container other than *name* has *port* and runs; empty when none does."""
    for other in sorted(os.listdir(containers)):
        wanted = network_of(other, containers)
        if other != name and any(overlaps(port, taken) for taken in wanted.get("ports", ())) and runs(wanted):
            return other
    return ""


def owner_of(port: dict, name: str, containers: str) -> str:  # type: ignore[type-arg]
    """Who has *port*, in words: another container, or a program and its pid."""
    if container := container_with(port, name, containers):
        return f"the container {container}"
    for inode in _sockets(port):
        for pid in os.listdir("/proc"):
            if pid.isdigit() and (program := _holder(pid, inode)):
                return f"{program} (pid {pid})"
    return "a program that holds it without listening; see ss -anp"


def network_of(name: str, containers: str) -> dict:  # type: ignore[type-arg]
    """`network` of a container's start.json; empty where there is none, or no container."""
    try:
        return load_json(f"{containers}/{name}/start.json").get("network") or {}
    except (OSError, Failure):
        return {}


def runs(wanted: dict) -> bool:  # type: ignore[type-arg]
    """Whether the container with the `network` *wanted* has a link on this host."""
    return any(index_of(item["host"]) for item in wanted.get("interfaces", ()))


def _sockets(port: dict) -> list[str]:  # type: ignore[type-arg]
    """The inodes of sockets that wait on *port*, whatever their address; proc_net(5)."""
    found = []
    for family in ("", "6"):
        try:
            with open(f"/proc/net/{port['protocol']}{family}", encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except FileNotFoundError:  # no IPv6
            continue
        for line in lines:
            fields = line.split()
            local, state, inode = fields[1], fields[3], fields[9]
            if int(local.rpartition(":")[2], 16) == port["port"] and state in (
                "0A",
                "07",
            ):  # listening, bound
                found.append(inode)
    return found


def _holder(pid: str, inode: str) -> str:
    """The name of process *pid* if it has the socket *inode*."""
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{descriptor}") == f"socket:[{inode}]":
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    return file.read().strip()
    except OSError:  # it has ended
        pass
    return ""
