"""Entries of the journal that say what gear has done, in the fields of KINDS: gear has no daemon that could tell.

Written in journald's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL), and read back by gear/events.py.
"""

from __future__ import annotations

from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
# What GEAR_EVENT may be, with the sentence for people who read the journal.  `health` is for what probes a container:
# GEAR_HEALTH says how it is.
KINDS = {
    "install": "{CONTAINER_NAME} was installed",
    "change": "{CONTAINER_NAME} was changed",
    "delete": "{CONTAINER_NAME} was deleted",
    "snapshot": "A snapshot of {CONTAINER_NAME} was made",
    "restore": "{CONTAINER_NAME} was restored",
    "kill": "{CONTAINER_NAME} was sent a signal",
    "pause": "{CONTAINER_NAME} was paused",
    "resume": "{CONTAINER_NAME} was resumed",
    "commit": "{CONTAINER_NAME} was made the image {IMAGE_NAME}",
    "pull": "The image {IMAGE_NAME} was pulled",
    "remove-image": "The image {IMAGE_NAME} was removed",
    "health": "{CONTAINER_NAME} is {GEAR_HEALTH}",
}
_INFORMATIONAL = "6"  # syslog(3)


def note(kind: str, **about: str) -> None:
    """Have the journal remember an event; *about* are fields.  What was done is done, so nothing is raised if journald
    can't be reached."""
    import socket  # here: some who come by this module do not need it

    fields = {
        "MESSAGE": KINDS[kind].format_map(about),
        "PRIORITY": _INFORMATIONAL,
        "SYSLOG_IDENTIFIER": "gear",
        "GEAR_EVENT": kind,
        **about,
    }
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    ) as channel:
        try:
            channel.sendto(datagram(fields), SOCKET)
        except OSError:
            pass


def datagram(fields: Mapping[str, str]) -> bytes:
    """*fields* as journald reads them: each with its length, so that a value may hold anything."""
    parts = []
    for name, text in fields.items():
        data = text.encode("utf-8", "surrogateescape")
        parts.append(name.encode("ascii") + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
    return b"".join(parts)
