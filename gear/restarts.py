"""When PID 1 starts a container again: the policy, how long it waits before, and when it gives up.

Words of systemd.service(5) and systemd.unit(5), and Docker's for the same.
"""

from __future__ import annotations

import re
from typing import Any

from gear import durations, members
from gear.errors import UsageError
from gear.patterns import pattern
from gear.records import dataclass

# systemd.service(5), "Restart="; unless-stopped is Docker's word: stopping keeps a container from starting at
# boot whatever the policy, so here it means what `always` means.
RESTARTS = (
    "no",
    "on-failure",
    "always",
    "unless-stopped",
    "on-success",
    "on-abnormal",
    "on-abort",
    "on-watchdog",
)
# How long on-failure:MAX counts restarts: crash loops end, and what an operator restarts now and then does not.
DAY = 86400.0
# From the first delay to the longest one in so many steps; five doublings of a second are half a minute.
STEPS = 5
_LIMIT = pattern(r"([0-9]{1,6})/([0-9a-z.]{1,20})", re.ASCII)


@dataclass(frozen=True)
class Pace:
    """How often and how soon a container is started again; None: as systemd does unless told otherwise."""

    delay: float | None = None  # seconds before a restart
    max_delay: float | None = None  # which the delay grows to
    limit: int | None = None  # restarts within *window*, after which it has failed
    window: float | None = None  # seconds

    def to_mapping(self) -> dict[str, Any]:
        """The member `pace` of spec.json."""
        return {
            "delay": self.delay,
            "max_delay": self.max_delay,
            "limit": self.limit,
            "window": self.window,
        }

    @classmethod
    def read(cls, value: Any) -> Pace:
        """Raises TypeError, ValueError and UsageError."""
        values, faults = members.read(members.mapping(value), _READERS, "")
        if faults:
            raise ValueError("; ".join(faults))
        found = cls(**values)
        found.require_consistent()
        return found

    def require_consistent(self) -> None:
        """Raise UsageError for what can't be had together."""
        if (self.limit is None) != (self.window is None):
            raise UsageError("A limit of restarts takes a time in which they are counted.")
        if self.max_delay is not None and (self.delay is None or self.max_delay <= self.delay):
            raise UsageError(
                "The longest delay of a restart takes a first one that is shorter.",
                hint="For example --restart-delay 1s --restart-max-delay 1m.",
            )


def restart_policy(text: str) -> str:
    """One of RESTARTS; raises UsageError."""
    if text not in RESTARTS:
        raise UsageError(f"{text!r} is no restart policy.", hint=f"Policies are {', '.join(RESTARTS)}.")
    return text


def parse_policy(text: str) -> tuple[str, int | None]:
    """`--restart`: a policy, and Docker's MAX of on-failure:MAX; raises UsageError."""
    word, colon, count = text.partition(":")
    if not colon:
        return restart_policy(word), None
    if word != "on-failure" or not (count.isascii() and count.isdigit() and len(count) < 7):
        raise UsageError(
            f"{text[:40]!r} is no restart policy.", hint="Only on-failure takes a number: on-failure:5."
        )
    return word, restarts(int(count)) if int(count) else None


def parse_limit(text: str) -> tuple[int, float]:
    """`--restart-limit`: how many restarts in what time, as MAX/TIME; raises UsageError."""
    match = _LIMIT.fullmatch(text)
    if not match:
        raise UsageError(f"{text[:40]!r} is no limit of restarts.", hint="Write MAX/TIME, for example 5/10m.")
    return restarts(int(match[1])), window(durations.parse(match[2]))


def restarts(value: int) -> int:
    """A number of restarts; raises UsageError."""
    if not 1 <= value <= 100_000:
        raise UsageError(f"{value} is no limit of restarts.", hint="Give 1 to 100000.")
    return value


def delay(value: float) -> float:
    """Seconds, 0 to a day; raises UsageError."""
    if not 0 <= value <= DAY:
        raise UsageError(f"{value} seconds are no delay of a restart.", hint="Give 0 to 24h.")
    return float(value)


def window(value: float) -> float:
    """Seconds, one to a year; raises UsageError."""
    if not 1 <= value <= 366 * DAY:
        raise UsageError(f"{value} seconds are no time to count restarts in.", hint="Give 1s or more.")
    return float(value)


_READERS: dict[str, members.Reader] = {
    "delay": members.optional(lambda value: delay(members.number(value))),
    "max_delay": members.optional(lambda value: delay(members.number(value))),
    "limit": members.optional(lambda value: restarts(members.integer(value))),
    "window": members.optional(lambda value: window(members.number(value))),
}
