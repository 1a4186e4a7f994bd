"""Reading the journal of containers: the arguments of journalctl(1).

Not a reader of journal files: journalctl always knows the format of the journal that is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from gear import process
from gear.errors import GearError, UsageError
from gear.model import unit_name
from gear.records import dataclass


@dataclass(frozen=True)
class Query:
    """What part of the journal of containers is wanted; None leaves a bound open."""

    lines: int | None = None
    follow: bool = False
    since: str | None = None
    until: str | None = None
    this_boot: bool = False
    invocations: tuple[str, ...] = ()  # 128-bit ids in hexadecimal, systemd.exec(5) $INVOCATION_ID
    output: str = "cat"  # journalctl's --output
    whole: bool = False  # with what systemd itself says about the unit
    grep: str | None = None  # a pattern of PCRE2
    priority: str | None = None  # a level of syslog(3), or a range
    namespaces: frozenset[str | None] = frozenset(
        {None}
    )  # where the containers write; None is the usual journal


def require_time(text: str | None) -> None:
    """Raise UsageError when *text* is no time that journalctl takes."""
    if text is None:
        return
    try:
        process.output(["systemd-analyze", "timestamp", "--", text])
    except GearError as error:
        raise UsageError(
            f"{text[:60]!r} is no time.", hint="For example today, -1h or 2026-01-31 12:00; systemd.time(7)."
        ) from error


def arguments(names: Sequence[str], query: Query) -> list[str]:
    """The command line of journalctl for the containers *names*."""
    command = ["journalctl", "--quiet", "--no-pager", f"--output={query.output}", "--all"]
    # What systemd says about a unit is always in the usual journal.
    command += _where(query.namespaces | {None} if query.whole else query.namespaces)
    # `-n N -f` loses what arrives in the first quarter of a second when nothing matched before, so a follower
    # that wants no bound asks for everything.
    command.append(f"--lines={'all' if query.lines is None else query.lines}")
    if query.follow:
        command.append("--follow")
    if query.since is not None:
        command.append(f"--since={query.since}")
    if query.until is not None:
        command.append(f"--until={query.until}")
    if query.this_boot:
        command.append("--boot")
    if query.grep is not None:
        command.append(f"--grep={query.grep}")
    if query.priority is not None:
        command.append(f"--priority={query.priority}")
    units = [unit_name(name) for name in names]
    if query.whole and not query.invocations:
        return [*command, *(f"--unit={unit}" for unit in units)]
    # Without `whole` only what the container's processes wrote, as the kernel vouches for the unit they are in.
    # systemd's own executor speaks from there too, but not over standard output.
    match = [f"_SYSTEMD_UNIT={unit}" for unit in units]
    match += [] if query.whole else ["_TRANSPORT=stdout"]
    match += [f"_SYSTEMD_INVOCATION_ID={invocation}" for invocation in query.invocations]
    if query.whole:
        match += ["+", *(f"UNIT={unit}" for unit in units)]
        match += [f"INVOCATION_ID={invocation}" for invocation in query.invocations]
    return [*command, *match]


def _where(namespaces: frozenset[str | None]) -> list[str]:
    """The option of journalctl for these namespaces, or for more: units are matched anyhow."""
    named = sorted(name for name in namespaces if name is not None)
    if not named:
        return []
    if len(named) > 1:
        return ["--namespace=*"]
    return [f"--namespace={'+' if None in namespaces else ''}{named[0]}"]


def position(namespace: str | None) -> str | None:
    """The cursor of the last entry of a journal; None when it has none."""
    command = ["journalctl", "--quiet", "--lines=1", "--output=cat", "--show-cursor", "--no-pager"]
    last = process.output([*command, *_where(frozenset({namespace}))], accept=(0, 1))
    last = last.rstrip("\n").rpartition("\n")[2]
    return last.removeprefix("-- cursor: ") if last.startswith("-- cursor: ") else None


def from_position(
    unit: str, namespace: str | None, invocation: str, cursor: str | None, *, follow: bool
) -> list[str]:
    """The command line of journalctl that prints, as JSON, what processes of *unit* wrote after *cursor*."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE", "--all"]
    command += ["--lines=all", *_where(frozenset({namespace}))]
    if cursor is not None:
        command.append(f"--after-cursor={cursor}")
    if follow:
        command.append("--follow")
    match = (f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout", f"_SYSTEMD_INVOCATION_ID={invocation}")
    return [*command, *match]


def synchronize(namespace: str | None = None) -> None:
    """Have journald write what was sent to it so far, so that a reader finds it.  A namespace whose journald was never
    started has nothing, and one that ends, as it does after its last container, writes everything itself."""
    try:
        process.output(["journalctl", "--sync", *_where(frozenset({namespace}))])
    except GearError:
        if namespace is None or _listens(f"/run/systemd/journal.{namespace}/io.systemd.journal"):
            raise


def _listens(path: str) -> bool:
    """Whether anybody takes connections to the socket *path*."""
    import socket  # here: only some who read the journal need it

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def tail(name: str, namespace: str | None, lines: int, invocation: str | None) -> list[str]:
    """The last *lines* of the journal of *name*, of one invocation if it is known."""
    invocations = () if invocation is None else (invocation,)
    query = Query(lines=lines, invocations=invocations, whole=True, namespaces=frozenset({namespace}))
    return process.output(arguments([name], query)).splitlines()


def last_words(unit: str, *, invocation: str | None = None, namespace: str | None = None) -> str:
    """The last line that a program wrote as *unit*, which says what went wrong; empty if there is none."""
    synchronize(namespace)
    command = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=1"]
    command += [*_where(frozenset({namespace})), f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout"]
    command += [] if invocation is None else [f"_SYSTEMD_INVOCATION_ID={invocation}"]
    said = process.output(command, accept=(0, 1)).strip()
    return said.removeprefix("gear: ").rstrip(".")


def of_systemd(unit: str, lines: int) -> list[str]:
    """The last *lines* that PID 1 wrote about *unit*: what became of it, and why."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={lines}"]
    return process.output([*command, "_PID=1", f"UNIT={unit}"], accept=(0, 1)).splitlines()


def last_invocation(name: str) -> str | None:
    """The id of the latest invocation that the journal knows of; None when there is none."""
    command = [
        "journalctl",
        "--quiet",
        "--output=cat",
        "--output-fields=INVOCATION_ID",
        "--lines=1",
        "--no-pager",
    ]
    found = process.output([*command, f"UNIT={unit_name(name)}", "JOB_TYPE=start"], accept=(0, 1)).split()
    return found[0] if found else None
