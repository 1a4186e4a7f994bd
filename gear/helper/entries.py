"""Entries of the journal with fields of their own, in journald's native protocol
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket

# In a unit's mount namespace that of its log namespace (systemd.exec(5), LogNamespace=).
SOCKET = "/run/systemd/journal/socket"


def send(fields: dict[str, str], address: str = SOCKET) -> None:
    """Have journald keep *fields*.  What they tell of is done, so nothing is raised if it can't be reached."""
    channel = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
    try:
        channel.sendto(datagram(fields), address)
    except OSError:
        pass
    finally:
        channel.close()


def datagram(fields: dict[str, str]) -> bytes:
    """*fields* as journald reads them: each with its length, so that a value may hold anything."""
    parts = []
    for name, text in fields.items():
        data = text.encode("utf-8", "surrogateescape")
        parts.append(name.encode("ascii") + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
    return b"".join(parts)
