"""Mounts that a container has beside its root: what was asked for, checked.

Not how they are made (gear/bundle.py has them in OCI's words), and not what a volume is on disk.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from gear import members
from gear.errors import UsageError
from gear.members import container_path
from gear.patterns import pattern
from gear.records import dataclass

BIND_OPTIONS = ("ro", "rw", "idmap", "nosuid", "nodev", "noexec", "rbind")
# With a value: the host's owner of a bind and whom that is inside, and a directory in a volume.
IDMAP, OWNER, SUBPATH = "idmap=", "owner=", "subpath="
VOLUME_OPTIONS = ("ro", "rw", "nosuid", "nodev", "noexec")

_VOLUME = pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", re.ASCII)
_ID = pattern(r"[0-9]{1,10}", re.ASCII)
_TMPFS = pattern(
    r"(size|nr_inodes)=[0-9]+[kmgKMG%]?|mode=[01]?[0-7]{3}|(uid|gid)=[0-9]{1,5}|ro|rw|nosuid|nodev|noexec|exec|suid",
    re.ASCII,
)


@dataclass(frozen=True)
class Mount:
    """One mount that was asked for.  *source* is a host path for `bind`, a volume's name for `volume`, and empty
    for `tmpfs`."""

    kind: str
    source: str
    destination: str
    options: tuple[str, ...] = ()

    def value(self, option: str) -> str | None:
        """What is said by one of IDMAP, OWNER and SUBPATH; None when it is not asked for."""
        return next((word.removeprefix(option) for word in self.options if word.startswith(option)), None)

    @property
    def plain_options(self) -> tuple[str, ...]:
        """The options that have no value."""
        return tuple(word for word in self.options if not word.startswith((IDMAP, OWNER, SUBPATH)))

    @property
    def owners(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """User and group on the host whose files are to be another's inside, and whose; None for all other mounts."""
        on_host = self.value(IDMAP)
        return None if on_host is None else (_ids(on_host), _ids(self.value(OWNER) or "0"))


def read(value: Any) -> tuple[Mount, ...]:
    """The mounts in the member `mounts` of a specification; raises UsageError, KeyError and TypeError."""
    return tuple(
        checked_mount(
            Mount(
                members.text(m["kind"]),
                members.text(m["source"]),
                members.text(m["destination"]),
                members.texts(m["options"]),
            )
        )
        for m in map(members.mapping, members.array(value))
    )


def checked_mount(mount: Mount) -> Mount:
    """*mount* with its destination made normal; raises UsageError for what can't be mounted."""
    destination = container_path(mount.destination, "A mount's destination")
    if destination == "/":
        raise UsageError("Nothing can be mounted on / of a container.", hint="The root comes from the image.")
    if (taken := kernel_view(destination)) is not None and destination != "/dev/shm":
        raise UsageError(
            f"Nothing can be mounted on {destination}: {taken} belongs to the container's kernel view."
        )
    allowed: tuple[str, ...] = ()
    if mount.kind == "bind":
        allowed = BIND_OPTIONS
        source = host_path(mount.source)
    elif mount.kind == "volume":
        allowed = VOLUME_OPTIONS
        source = volume_name(mount.source)
    elif mount.kind == "tmpfs":
        source = ""
        wrong = [option for option in mount.options if not _TMPFS.fullmatch(option)]
        if wrong:
            raise UsageError(
                f"A tmpfs has no option {wrong[0]!r}.",
                hint="Options are size=, mode=, ro, exec and the like.",
            )
    else:
        raise UsageError(f"{mount.kind!r} is no kind of mount.", hint="Kinds are bind, volume and tmpfs.")
    if allowed:
        _check_options(mount, allowed)
    return Mount(mount.kind, source, destination, mount.options)


def _check_options(mount: Mount, allowed: tuple[str, ...]) -> None:
    """Raise UsageError for options that such a mount does not have, or not together."""
    valued = (IDMAP, OWNER) if mount.kind == "bind" else (SUBPATH,)
    for option in mount.options:
        if option not in allowed and not option.startswith(valued):
            known = [*allowed, *(f"{word}..." for word in valued)]
            raise UsageError(
                f"A {mount.kind} mount has no option {option!r}.", hint=f"Options are {', '.join(known)}."
            )
    for word in valued:
        if sum(option.startswith(word) for option in mount.options) > 1:
            raise UsageError(f"A mount has {word} once at most.")
    if mount.value(OWNER) is not None and mount.value(IDMAP) is None:
        raise UsageError(
            f"{OWNER} says whom the owner of a directory is inside, so it takes {IDMAP} with that owner.",
            hint="-v /srv/src:/src:idmap=1000,owner=33",
        )
    if mount.owners is not None and "idmap" in mount.options:
        raise UsageError("A mount is mapped as a whole by idmap, or for one owner by idmap=UID, not both.")
    if (path := mount.value(SUBPATH)) is not None:
        _check_subpath(path)


def _check_subpath(path: str) -> None:
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or any(character < " " for character in path):
        raise UsageError(
            f"{path[:80]!r} is no directory in a volume.", hint="Write it as a/b, from the volume's own."
        )


def _ids(text: str) -> tuple[int, int]:
    """UID[:GID] as numbers; the group is that of the user's number if it is left out; raises UsageError."""
    user, colon, group = text.partition(":")
    numbers = [user, group if colon else user]
    if not all(_ID.fullmatch(number) and int(number) < (1 << 32) - 1 for number in numbers):
        raise UsageError(f"{text[:40]!r} names no owner.", hint="Write the numbers UID or UID:GID.")
    return int(numbers[0]), int(numbers[1])


def kernel_view(path: str) -> str | None:
    """Which of /proc, /sys and /dev a normal path is or is in; None for others."""
    for taken in ("/proc", "/sys", "/dev"):
        if path == taken or path.startswith(taken + "/"):
            return taken
    return None


def host_path(text: str, what: str = "A bind mount's source") -> str:
    """*text* as an absolute, normal path on the host; raises UsageError."""
    if not text.startswith("/"):
        raise UsageError(f"{what} must be an absolute path on the host, not {text!r}.")
    if any(character < " " or character == "\x7f" for character in text):
        # RequiresMountsFor= of the unit knows no escapes for them.
        raise UsageError(f"{text!r} can't be bound: it has control characters.")
    path = posixpath.normpath(text)
    return path[1:] if path.startswith("//") else path


def volume_name(text: str) -> str:
    """*text* if it may name a volume; raises UsageError otherwise."""
    if not _VOLUME.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} can't name a volume.",
            hint="Use letters, digits, '_', '.' or '-'; a directory of the host is given as an absolute path.",
        )
    return text


def parse_volume(text: str) -> Mount:
    """`-v`: SOURCE:DESTINATION[:OPTION,...], where an absolute SOURCE is a bind and a name is a volume."""
    parts = text.split(":", 2)  # there may be a colon in idmap=
    options = tuple(parts[2].split(",")) if len(parts) == 3 else ()
    colons = any(":" in option and not option.startswith((IDMAP, OWNER)) for option in options)
    if len(parts) not in (2, 3) or not all(parts) or colons:
        raise UsageError(
            f"{text!r} is no volume.",
            hint="Write /host/directory:/in/container[:ro] or name:/in/container[:ro].",
        )
    kind = "bind" if parts[0].startswith("/") else "volume"
    return checked_mount(Mount(kind, parts[0], parts[1], options))


def parse_tmpfs(text: str) -> Mount:
    """`--tmpfs`: DESTINATION[:OPTION,...]."""
    destination, _, options = text.partition(":")
    return checked_mount(Mount("tmpfs", "", destination, tuple(options.split(",")) if options else ()))
