"""What becomes of a container's output: the member `logging` of spec.json, and the grammar of the --log options.

Also the limits of a log namespace, that is a journald of its own for some containers, as journald.conf(5) has them.
"""

from __future__ import annotations

import re
from typing import Any

from gear import durations, members
from gear.errors import UsageError
from gear.patterns import pattern
from gear.records import dataclass, fields

# `journald` is Docker's word for what systemd does with the output of any service.
DRIVERS = JOURNAL, DISCARD = ("journald", "none")
# syslog(3); of the words that journalctl(1) knows, one for each.
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
# The label that says which app a container belongs to; it becomes the field GEAR_APP of its entries.
APP_LABEL = "gear.app"

_NAMESPACE = pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_RATE = pattern(r"([0-9]{1,9})/([0-9a-z.]{1,20})", re.ASCII)
_MOST_SECONDS = 10 * 365 * 86400
# journald makes no file smaller than this (512 KiB), and keeps some of them.
_LEAST_SIZE = 1 << 20


@dataclass(frozen=True)
class Rate:
    """So many lines within so many seconds; what is more is dropped, and journald says how much.  Zero: no limit."""

    burst: int
    interval: float  # seconds


@dataclass(frozen=True)
class Logging:
    """None means what journald does by itself."""

    driver: str = JOURNAL
    namespace: str | None = None
    rate: Rate | None = None
    level: str | None = None  # the least important that is kept

    def to_mapping(self) -> dict[str, Any]:
        """The member of spec.json: what was asked for."""
        found: dict[str, Any] = {} if self.driver == JOURNAL else {"driver": self.driver}
        if self.namespace is not None:
            found["namespace"] = self.namespace
        if self.rate is not None:
            found["rate"] = {"burst": self.rate.burst, "interval": self.rate.interval}
        if self.level is not None:
            found["level"] = self.level
        return found

    @classmethod
    def read(cls, document: Any) -> Logging:
        """What *document* says; raises UsageError, TypeError, ValueError or KeyError for what is wrong with it."""
        found = members.mapping(document)
        if unknown := sorted(set(found) - {item.name for item in fields(cls)}):
            raise ValueError(f"no such member: {members.shown(unknown[0])}")
        return checked(
            cls(
                driver(members.text(found.get("driver", JOURNAL))),
                members.optional(lambda value: namespace_name(members.text(value)))(found.get("namespace")),
                members.optional(_rate)(found.get("rate")),
                members.optional(lambda value: level(members.text(value)))(found.get("level")),
            )
        )


def checked(wanted: Logging) -> Logging:
    """*wanted* if its parts go together; raises UsageError."""
    if wanted.driver == DISCARD and (wanted.namespace or wanted.rate or wanted.level):
        raise UsageError("What is thrown away has no namespace, rate or level.", hint="Leave --log-driver.")
    return wanted


def driver(text: str) -> str:
    """One of DRIVERS; raises UsageError."""
    if text not in DRIVERS:
        raise UsageError(f"There is no log driver {text[:40]!r}.", hint=f"Drivers are {', '.join(DRIVERS)}.")
    return text


def level(text: str) -> str:
    """One of LEVELS; raises UsageError."""
    if text not in LEVELS:
        raise UsageError(f"{text[:40]!r} is no log level.", hint=f"Levels are {', '.join(LEVELS)}.")
    return text


def namespace_name(text: str) -> str:
    """*text* if it may name a log namespace, which is part of a unit's name; raises UsageError."""
    if not _NAMESPACE.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} can't name a log namespace.",
            hint="Use 1 to 63 letters, digits, '_', '.' or '-', and begin with a letter or digit.",
        )
    return text


def parse_rate(text: str) -> Rate:
    """LINES/TIME such as 1000/30s, or `off`; raises UsageError."""
    if text == "off":
        return Rate(0, 0)
    match = _RATE.fullmatch(text)
    if not match or not int(match[1]):
        raise UsageError(
            f"{text[:40]!r} is no rate of lines.", hint="Write LINES/TIME such as 1000/30s, or off."
        )
    return _possible(Rate(int(match[1]), parse_time(match[2])))


def _rate(value: Any) -> Rate:
    found = members.mapping(value)
    if unknown := sorted(set(found) - {"burst", "interval"}):
        raise ValueError(f"no such member: {members.shown(unknown[0])}")
    return _possible(Rate(members.integer(found["burst"]), float(members.number(found["interval"]))))


def _possible(rate: Rate) -> Rate:
    if not 0 <= rate.burst <= 999_999_999 or not 0 <= rate.interval <= _MOST_SECONDS:
        raise UsageError(f"{rate.burst} lines within {rate.interval} seconds are no rate of lines.")
    if bool(rate.burst) != bool(rate.interval):
        raise UsageError("A rate takes both lines and a time.", hint="Write 1000/30s, or off.")
    return rate


def parse_time(text: str) -> float:
    """Seconds for which something is kept or counted; raises UsageError."""
    seconds = durations.parse(text)
    if not 0 < seconds <= _MOST_SECONDS:
        raise UsageError(
            f"{text[:40]!r} is no time to keep or count in.", hint="For example 30s, 5min or 2d."
        )
    return seconds


@dataclass(frozen=True)
class NamespaceLimits:
    """What a log namespace may keep; None leaves it to journald (journald.conf(5))."""

    max_use: int | None = None  # bytes on disk
    max_file: int | None = None  # bytes of one file, which is what is removed at a time
    retention: float | None = None  # seconds
    rate: Rate | None = None  # of each service in it

    def settings(self) -> bytes:
        """A file for journald@NAMESPACE.conf.d."""
        lines = []
        for name, size in (("MaxUse", self.max_use), ("MaxFileSize", self.max_file)):
            # Below /var, and below /run while that is not there yet.
            lines += [] if size is None else [f"System{name}={size}", f"Runtime{name}={size}"]
        if self.retention is not None:
            lines.append(f"MaxRetentionSec={durations.span(self.retention)}")
        if self.rate is not None:
            lines += [
                f"RateLimitIntervalSec={durations.span(self.rate.interval)}",
                f"RateLimitBurst={self.rate.burst}",
            ]
        header = "# Written by gear log-namespace create; settings of your own belong below /etc/systemd."
        return "\n".join([header, "[Journal]", *lines, ""]).encode()

    @classmethod
    def read(cls, settings: bytes) -> NamespaceLimits:
        """What settings() wrote; what it did not write is left out."""
        found = dict(
            line.split("=", 1) for line in settings.decode(errors="replace").splitlines() if "=" in line
        )
        size = {name: int(text) for name, text in found.items() if text.isascii() and text.isdigit()}
        span = {name: _span(text) for name, text in found.items() if name.endswith("Sec")}
        interval = span.get("RateLimitIntervalSec")
        rate = None if interval is None else Rate(size.get("RateLimitBurst", 0), interval)
        return cls(size.get("SystemMaxUse"), size.get("SystemMaxFileSize"), span.get("MaxRetentionSec"), rate)

    def to_mapping(self) -> dict[str, Any]:
        """For `gear log-namespace list --output json`."""
        return {
            "max_use": self.max_use,
            "max_file": self.max_file,
            "retention": self.retention,
            "rate": None if self.rate is None else {"burst": self.rate.burst, "interval": self.rate.interval},
        }


def namespace_size(value: int) -> int:
    """Bytes that a namespace, or a file of it, may have; raises UsageError."""
    if not _LEAST_SIZE <= value < 1 << 50:
        raise UsageError(f"{value} bytes are too few or too many for a journal.", hint="Give at least 1m.")
    return value


def _span(text: str) -> float | None:
    try:
        return float(text.removesuffix("s"))
    except ValueError:
        return None
