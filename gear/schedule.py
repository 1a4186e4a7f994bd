"""When a container is upgraded by itself, and the units for that, as pure functions of it.

    gear-upgrade@NAME.timer      when
    gear-upgrade@NAME.service    gear upgrade NAME, once

What is asked for is kept as schedule.json beside spec.json: it is no part of the container, and stays when that is
installed anew or rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gear import durations, members, unitfile
from gear.errors import UsageError
from gear.model import Layout, absolute_path, container_name
from gear.patterns import pattern
from gear.records import dataclass

_UNIT = pattern(r"gear-upgrade@([A-Za-z0-9][A-Za-z0-9_.-]{0,62})\.(?:timer|service)", re.ASCII)
# systemd.time(7), "Calendar Events"; systemd-analyze(1) has the last word.
_CALENDAR = pattern(r"[A-Za-z0-9 *:,./~_+-]{1,200}", re.ASCII)
_LONGEST = 7 * 86400
# What an upgrade takes: files of any owner with any mode and attribute, nodes for whiteouts, mounts, who has a port.
_CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD CAP_NET_ADMIN CAP_SETFCAP "
    "CAP_SETGID CAP_SETUID CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_PTRACE"
)
_HARDENING = (
    ("CapabilityBoundingSet", _CAPABILITIES),
    ("NoNewPrivileges", "yes"),
    ("ProtectSystem", "strict"),
    # Where passwords of registries are.
    ("ProtectHome", "read-only"),
    ("PrivateTmp", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("LockPersonality", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
    ("SystemCallArchitectures", "native"),
)


@dataclass(frozen=True)
class Schedule:
    """When (systemd.time(7)), how many seconds later at most, by which program, and whether volumes are kept."""

    calendar: str
    delay: int
    program: str
    volumes: bool = False

    def to_mapping(self) -> dict[str, Any]:
        return {
            "version": 1,
            "calendar": self.calendar,
            "delay": self.delay,
            "program": self.program,
            "volumes": self.volumes,
        }

    @classmethod
    def read(cls, document: Any) -> Schedule:
        """Raises KeyError, TypeError, ValueError and UsageError for what is no schedule."""
        top = members.mapping(document)
        if top["version"] != 1:
            raise ValueError(f"its version is {top['version']!r}")
        return cls(
            calendar(members.text(top["calendar"])),
            _checked_delay(members.integer(top["delay"])),
            program(members.text(top["program"])),
            members.boolean(top["volumes"]),
        )


def calendar(text: str) -> str:
    """*text* if it can be a calendar event; raises UsageError."""
    if not _CALENDAR.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} is no time to upgrade at.",
            hint="Write one as systemd.time(7) has them: 'Sun 03:00', daily, '*-*-01 04:30'.",
        )
    return text


def parse_delay(text: str) -> int:
    """`--random-delay` in seconds; raises UsageError."""
    return _checked_delay(durations.whole(text))


def _checked_delay(seconds: int) -> int:
    if not 0 <= seconds <= _LONGEST:
        raise UsageError(
            f"A delay of {seconds} seconds is not possible.", hint="It may be seven days at most."
        )
    return seconds


def program(text: str) -> str:
    """*text* if it can be the path of a program in a unit; raises UsageError."""
    path = str(absolute_path(text, "The program that a schedule runs"))
    if not path.isprintable() or any(character in path for character in "%$\"'\\;"):
        raise UsageError(f"{path!r} can't be run by a unit.")
    return path


def owner(unit: str) -> str | None:
    """The container whose schedule the unit *unit* is of; None for any other unit."""
    match = _UNIT.fullmatch(unit)
    return match[1] if match else None


def timer(name: str) -> str:
    """The unit that says when *name* is upgraded."""
    return f"gear-upgrade@{container_name(name)}.timer"


def service(name: str) -> str:
    """The unit that upgrades *name*."""
    return f"gear-upgrade@{container_name(name)}.service"


def render(name: str, wanted: Schedule, layout: Layout, writable: Sequence[str]) -> dict[str, bytes]:
    """Both units, by name; *writable* are directories besides gear's own in which an upgrade changes something."""
    directory = unitfile.value(str(layout.containers / name))
    header = (
        f"Rendered by gear from {directory}/schedule.json; gear upgrade --schedule overwrites changes here.",
        "Settings of your own belong into a drop-in: systemctl edit, with the name of this unit",
    )
    when = [
        ("OnCalendar", unitfile.value(wanted.calendar)),
        *([("RandomizedDelaySec", f"{wanted.delay}s")] if wanted.delay else []),
        ("AccuracySec", "1s"),
        # What was slept through is made up for.
        ("Persistent", "yes"),
    ]
    places = [unitfile.word(str(place)) for place in (layout.state, layout.units, *writable)]
    unit = [
        ("Description", unitfile.value(f"Upgrade of {name}")),
        ("Wants", "network-online.target"),
        ("After", "network-online.target nss-lookup.target"),
        ("RequiresMountsFor", " ".join(places[:2])),
        # How often it runs is the timer's matter, which a limit would end for good.
        ("StartLimitIntervalSec", "0"),
    ]
    volumes = ["--snapshot-volumes"] if wanted.volumes else []
    what = [
        ("Type", "oneshot"),
        (
            "ExecStart",
            unitfile.command([wanted.program, *_moved(layout), "upgrade", "--quiet", *volumes, name]),
        ),
        ("SyslogIdentifier", unitfile.word(f"gear-upgrade-{name}")),
        # It is everybody's who upgrades at the same time (gear/draining.py).
        ("RuntimeDirectory", "gear-replacing"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("ReadWritePaths", " ".join(places)),
        *_HARDENING,
    ]
    timer_unit = [("Description", unitfile.value(f"When {name} is upgraded"))]
    wants = [("WantedBy", "timers.target")]
    return {
        timer(name): unitfile.render(
            header, [("Unit", timer_unit), ("Timer", when), ("Install", wants)]
        ).encode(),
        service(name): unitfile.render(header, [("Unit", unit), ("Service", what)]).encode(),
    }


def _moved(layout: Layout) -> list[str]:
    """The options by which gear finds its files where the layout has them."""
    usual = Layout()
    places = {
        "--state-dir": (layout.state, usual.state),
        "--unit-dir": (layout.units, usual.units),
        "--config-dir": (layout.config, usual.config),
    }
    return [f"{option}={here}" for option, (here, there) in places.items() if here != there]
