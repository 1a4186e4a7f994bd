"""Reading the journal of containers: the arguments of journalctl(1).

Not a reader of journal files: journalctl always knows the format of the journal that is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from gear import process
from gear.spec import unit_name


@dataclass(frozen=True)
class Query:
    """What part of a container's journal is wanted; None leaves a bound open."""

    lines: int | None = None
    follow: bool = False
    since: str | None = None
    until: str | None = None
    this_boot: bool = False
    invocation: str | None = None  # 128-bit id in hexadecimal, systemd.exec(5) $INVOCATION_ID
    output: str = "cat"  # journalctl's --output
    whole: bool = False  # with what systemd itself says about the unit


def arguments(name: str, query: Query) -> list[str]:
    """The command line of journalctl for the container *name*."""
    unit = unit_name(name)
    command = ["journalctl", "--quiet", "--no-pager", f"--output={query.output}", "--all"]
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
    if query.whole and query.invocation is None:
        return [*command, f"--unit={unit}"]
    # Without `whole` only what the container's processes wrote, as the kernel vouches for the unit they are in.
    # systemd's own executor speaks from there too, but not over standard output.
    match = [f"_SYSTEMD_UNIT={unit}"] if query.whole else [f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout"]
    if query.invocation is not None:
        match.append(f"_SYSTEMD_INVOCATION_ID={query.invocation}")
        if query.whole:
            match += ["+", f"UNIT={unit}", f"INVOCATION_ID={query.invocation}"]
    return [*command, *match]


def position() -> str | None:
    """The cursor of the journal's last entry; None when it has none."""
    command = ["journalctl", "--quiet", "--lines=1", "--output=cat", "--show-cursor", "--no-pager"]
    last = process.output(command, accept=(0, 1)).rstrip("\n").rpartition("\n")[2]
    return last.removeprefix("-- cursor: ") if last.startswith("-- cursor: ") else None


def from_position(unit: str, invocation: str, cursor: str | None, *, follow: bool) -> list[str]:
    """The command line of journalctl that prints, as JSON, what processes of *unit* wrote after *cursor*."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE", "--all"]
    command.append("--lines=all")
    if cursor is not None:
        command.append(f"--after-cursor={cursor}")
    if follow:
        command.append("--follow")
    match = (f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout", f"_SYSTEMD_INVOCATION_ID={invocation}")
    return [*command, *match]


def synchronize() -> None:
    """Have journald write what was sent to it so far, so that a reader finds it."""
    process.output(["journalctl", "--sync"])


def last_line(unit: str, invocation: str | None) -> str | None:
    """What processes of *unit*, which is no container's, wrote last; None when they said nothing."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=1", f"_SYSTEMD_UNIT={unit}"]
    command.append("_TRANSPORT=stdout")
    if invocation is not None:
        command.append(f"_SYSTEMD_INVOCATION_ID={invocation}")
    return process.output(command, accept=(0, 1)).strip() or None


def tail(name: str, lines: int, invocation: str | None) -> list[str]:
    """The last *lines* of the journal of *name*, of one invocation if it is known."""
    query = Query(lines=lines, invocation=invocation, whole=True, output="cat")
    return process.output(arguments(name, query)).splitlines()


def last_words(unit: str) -> str:
    """The last line that a program wrote as *unit*, which says what went wrong; empty if there is none."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=1"]
    said = process.output([*command, f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout"], accept=(0, 1)).strip()
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
