"""Who a name is, by the passwd(5) and group(5) files of a container: Docker's rules.

Pure: the files' content comes from the caller, which knows how to read hostile ones, and nothing of the container,
such as a name service library, ever runs for it.
"""

from __future__ import annotations

from collections.abc import Callable

from gear.errors import IntegrityError, UsageError
from gear.records import dataclass

# A container has this many ids of its own.
IDS = 65536


@dataclass(frozen=True)
class Identity:
    """Who a process is: its ids as seen inside, and the account's home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def lookup(read: Callable[[str], bytes | None], text: str, whose: str = "image", ids: int = IDS) -> Identity:
    """Who USER[:GROUP] *text* is, with *read* for `/etc/passwd` and `/etc/group`, None where there is no such file.

    A number is an id, known or not.  Without a group it is that of the account, and the account's
    supplementary groups count; an unknown number has group 0.  Nothing at all is uid 0.
    """
    user, colon, group = text.partition(":")
    accounts = table(read("/etc/passwd"), 7)
    user = user or "0"
    number = numeric(user)
    account = next(
        (row for row in accounts if (row[0] == user if number is None else numeric(row[2]) == number)),
        None,
    )
    if account is None and number is None:
        raise UsageError(
            f"The {whose} has no user {user!r}.",
            hint=f"Use a name of the {whose}'s /etc/passwd, or a number.",
        )
    uid = number if number is not None else numeric(account[2]) if account else None
    gid: int | None = 0
    if account is not None:
        gid = numeric(account[3])
    groups: tuple[int, ...] = ()
    if colon and group:
        gid = lookup_group(read, group, whose)
    elif account is not None:
        groups = _memberships(read, account[0], ids)
    home = account[5] if account is not None else ""
    if uid is None or gid is None:
        raise IntegrityError(f"The {whose}'s /etc/passwd has no usable ids for the user {user!r}.")
    for what, value in (("user", uid), ("group", gid)):
        if value >= ids:
            raise UsageError(f"The {what} id {value} can't be used: a container has ids 0 to {ids - 1}.")
    return Identity(uid, gid, groups, home if home.startswith("/") else "/")


def names(data: bytes | None) -> dict[int, str]:
    """The first name of each id in a file like passwd(5)."""
    found: dict[int, str] = {}
    for row in table(data, 4):
        if (number := numeric(row[2])) is not None:
            found.setdefault(number, row[0])
    return found


def lookup_group(read: Callable[[str], bytes | None], text: str, whose: str = "image") -> int:
    """The id of a group given by name or number; raises UsageError for a name that is not there."""
    number = numeric(text)
    if number is not None:
        return number
    for row in table(read("/etc/group"), 4):
        if row[0] == text and (gid := numeric(row[2])) is not None:
            return gid
    raise UsageError(
        f"The {whose} has no group {text!r}.", hint=f"Use a name of the {whose}'s /etc/group, or a number."
    )


def _memberships(read: Callable[[str], bytes | None], user: str, ids: int) -> tuple[int, ...]:
    """The supplementary groups of an account, sorted."""
    rows = table(read("/etc/group"), 4)
    found = {numeric(row[2]) for row in rows if user in row[3].split(",")}
    return tuple(sorted(gid for gid in found if gid is not None and gid < ids))


def numeric(text: str) -> int | None:
    """A numeric id; ten digits are more than any has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def table(data: bytes | None, columns: int) -> list[list[str]]:
    """The rows of a file like passwd(5); those that are too short are padded, comments and damage are left out."""
    rows = []
    for line in (data or b"").decode("utf-8", "surrogateescape").split("\n"):
        row = line.strip().split(":")
        # No program could be given a NUL, as part of $HOME for example; such a row is damage.
        if row[0] and not row[0].startswith("#") and "\0" not in line:
            rows.append(row + [""] * (columns - len(row)))
    return rows
