"""Entries of the journal that say what gear has done, in the fields of KINDS: gear has no daemon that could tell.

Read back by gear/events.py.
"""

from __future__ import annotations

from gear.helper import entries

SOCKET = entries.SOCKET
# What GEAR_EVENT may be, with the sentence for people who read the journal.  `health` is of what probes
# a container (gear/helper/account.py): GEAR_HEALTH says how it is.
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
    fields = {
        "MESSAGE": KINDS[kind].format_map(about),
        "PRIORITY": _INFORMATIONAL,
        "SYSLOG_IDENTIFIER": "gear",
        "GEAR_EVENT": kind,
        **about,
    }
    entries.send(fields, SOCKET)
