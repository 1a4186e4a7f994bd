"""resolv.conf of a container with addresses, written by each start, and change of networks, from what the host's says
then.

Name servers on a loopback address are the container's own from inside, so they can't be taken over.  Instead of
systemd-resolved's stub those are asked that it asks; for any other, such as dnsmasq on 127.0.0.1, the host's address on
the container's network, where it answers if it listens there as well.
"""

from __future__ import annotations

import posix as os
import sys
from _socket import AF_INET, AF_INET6, SOCK_DGRAM, inet_pton, socket

from gear.helper.failure import Step

_HOST = "/etc/resolv.conf"
# resolved.conf(5): 54 is the one that passes everything on.
_STUBS = ("127.0.0.53", "127.0.0.54")
_BEHIND_STUB = "/run/systemd/resolve/resolv.conf"
_LIMIT = 1 << 16  # bytes
_MOST = 3  # MAXNS, resolv.h
_DNS = 53


class Configuration:
    """What a resolv.conf(5) says."""

    def __init__(self, text: str) -> None:
        self.servers: list[str] = []
        self.search: list[str] = []
        self.options: list[str] = []
        for line in text.split("\n"):
            keyword, *words = line.split() or ("",)
            if keyword == "nameserver" and words:
                self.servers.append(words[0])
            elif keyword in ("search", "domain"):
                self.search = words
            elif keyword == "options":
                self.options += words


def write(bundle: str, wanted: dict) -> None:  # type: ignore[type-arg]
    """Make resolv.conf of the container; *wanted* is `resolver` of start.json's `network`.  Raises Failure."""
    step = Step()
    step.doing = f"write {bundle}/resolv.conf"
    try:
        text = render(wanted)
        # In place, as it is mounted: by a start nobody reads it yet, and a change while it runs is one write.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(f"{bundle}/resolv.conf", flags, 0o644)
        try:
            os.fchmod(descriptor, 0o644)
            os.write(descriptor, text.encode(errors="surrogateescape"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise step.failure(error) from error


def render(wanted: dict) -> str:  # type: ignore[type-arg]
    """The text: what was asked for, and the host's for the rest."""
    host = _of_host()
    servers, comment = wanted["servers"], ""
    if not servers:
        servers, comment = _reachable(host.servers, wanted["gateways"], wanted["host"])
    search = wanted["search"] or host.search
    options = wanted["options"] or [word for word in host.options if word != "trust-ad"]
    lines = [comment] if comment else []
    lines += [f"nameserver {server}" for server in servers[:_MOST]]
    if search and search != ["."]:
        lines.append(f"search {' '.join(search)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "".join([line + "\n" for line in lines])


def _of_host() -> Configuration:
    found = Configuration(_read(_HOST))
    if any(server in _STUBS for server in found.servers):
        behind = Configuration(_read(_BEHIND_STUB))
        if behind.servers:
            found.servers = behind.servers
    return found


def _read(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read(_LIMIT) or b"").decode(errors="surrogateescape")
    except OSError:  # then the host has no name servers
        return ""


def _reachable(servers: list[str], gateways: list[str], host: list[str]) -> tuple[list[str], str]:
    """The name servers that can be asked from inside, and a comment if there is none."""
    if not gateways:
        return [], "# The networks of this container lead nowhere."
    versions = {6 if ":" in gateway else 4 for gateway in gateways}
    found, loopback = [], False
    for server in servers:
        version, own = _kind(server)
        loopback = loopback or own
        if version in versions and not own:
            found.append(server)
    if found:
        return found, ""
    if not loopback or not host:
        return [], "# This machine has no name server that can be asked from here."
    if not _is_answered(host[0]):
        print(
            "gear: this machine's name server listens on a loopback address only, so the container can't ask it;"
            f" let it listen on {host[0]} too, or give the container another one (--dns)",
            file=sys.stderr,
            flush=True,
        )
    return host[:1], "# The machine's own, at its address on this network."


def _kind(server: str) -> tuple[int, bool]:
    """The version of an address, 0 for none, and whether it is a loopback address."""
    for version, family in ((4, AF_INET), (6, AF_INET6)):
        try:
            packed = inet_pton(family, server)
        except OSError:
            continue
        mapped = packed[12:] if packed[:12] == bytes(10) + b"\xff\xff" else packed
        own = mapped[0] == 127 if len(mapped) == 4 else mapped == bytes(15) + b"\1"
        if packed == bytes(len(packed)):  # INADDR_ANY means this machine, resolver(3)
            own = True
        return version, own
    return 0, False  # with a zone, which is one of the host's links


def _is_answered(address: str) -> bool:
    """Whether a program of the host waits for questions at *address*."""
    family = AF_INET6 if ":" in address else AF_INET
    trial = socket(family, SOCK_DGRAM)
    try:
        trial.bind((address, _DNS))
    except OSError as error:
        return error.errno == 98  # EADDRINUSE
    finally:
        trial.close()
    return False
