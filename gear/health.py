"""When a container counts as ready, and what tells whether it is healthy.

What was asked for is the member `health` of spec.json; with the image's HEALTHCHECK, in the form in which Docker
writes it, that comes to a Check and a Readiness.  The prober is gear/helper/health.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gear import members
from gear.document import Node
from gear.errors import IntegrityError, UsageError
from gear.records import dataclass

# Docker's.
INTERVAL = TIMEOUT = 30.0
RETRIES = 3
# Until it is healthy a container is looked at more often: whoever waits for it, waits for the next look.
START_INTERVAL = 1.0
# systemd's own time for a start (DefaultTimeoutStartSec=); a check's is added.
START_TIMEOUT = 90.0
ON_FAILURE = ("restart", "none", "stop", "kill")
_NANO = 1_000_000_000
_MOST_SECONDS = 7 * 86400.0
_LEAST_SECONDS = 0.001
_PATTERN_LIMIT = 1000
_IMAGE_TIMES = {
    "Interval": "interval",
    "Timeout": "timeout",
    "StartPeriod": "start_period",
    "StartInterval": "start_interval",
}


@dataclass(frozen=True)
class Check:
    """A program that tells whether the container is well, by its exit status; times in seconds."""

    command: tuple[str, ...]
    interval: float = INTERVAL
    timeout: float = TIMEOUT
    retries: int = RETRIES
    start_period: float = 0.0
    start_interval: float = START_INTERVAL
    on_failure: str = ON_FAILURE[0]

    @property
    def patience(self) -> float:
        """How long a container may take until it is healthy for the first time."""
        return self.start_period + self.retries * self.interval

    def to_mapping(self) -> dict[str, Any]:
        """For the prober, in start.json."""
        return {
            "command": list(self.command),
            "interval": self.interval,
            "timeout": self.timeout,
            "retries": self.retries,
            "patience": self.patience,
            "start_interval": self.start_interval,
            "on_failure": self.on_failure,
        }


@dataclass(frozen=True)
class Readiness:
    """What a start waits for: `started`, `healthy`, `port` (None: the only one), `log` or `notify`."""

    kind: str
    port: int | None = None
    pattern: str | None = None

    @classmethod
    def parse(cls, text: str) -> Readiness:
        """`--ready-when`; raises UsageError."""
        kind, colon, rest = text.partition(":")
        if kind in ("started", "healthy", "notify") and not colon:
            return cls(kind)
        if kind == "port":
            if not colon:
                return cls(kind)
            if rest.isascii() and rest.isdigit() and len(rest) < 6 and 0 < int(rest) < 65536:
                return cls(kind, port=int(rest))
        if kind == "log" and rest and len(rest) <= _PATTERN_LIMIT and rest.isprintable():
            try:
                re.compile(rest)
            except (re.error, RecursionError, OverflowError) as error:
                raise UsageError(f"{rest[:80]!r} is no regular expression: {error}.") from error
            return cls(kind, pattern=rest)
        raise UsageError(
            f"{text[:80]!r} is nothing to wait for.",
            hint="Give started, healthy, port, port:NUMBER, log:REGEX or notify.",
        )

    def __str__(self) -> str:
        """As parse() reads it."""
        rest = self.pattern if self.pattern is not None else self.port
        return self.kind if rest is None else f"{self.kind}:{rest}"


@dataclass(frozen=True)
class Health:
    """What was asked for; None: what the image says, or Docker's default."""

    test: tuple[str, ...] | None = None  # as in images: NONE, CMD and words, or CMD-SHELL and a script
    interval: float | None = None  # seconds, as all times here
    timeout: float | None = None
    retries: int | None = None
    start_period: float | None = None
    start_interval: float | None = None
    on_failure: str | None = None
    ready: Readiness | None = None
    start_timeout: float | None = None  # 0 for none

    @property
    def asks_for_prober(self) -> bool:
        """Whether something was asked for, other than to leave the image's check out."""
        return self not in (Health(), Health(test=("NONE",)))

    def to_mapping(self) -> dict[str, Any]:
        """The member `health` of spec.json."""
        return {
            "test": None if self.test is None else list(self.test),
            "interval": self.interval,
            "timeout": self.timeout,
            "retries": self.retries,
            "start_period": self.start_period,
            "start_interval": self.start_interval,
            "on_failure": self.on_failure,
            "ready_when": None if self.ready is None else str(self.ready),
            "start_timeout": self.start_timeout,
        }

    @classmethod
    def read(cls, value: Any) -> Health:
        """Raises TypeError, ValueError and UsageError."""
        values, faults = members.read(members.mapping(value), _READERS, "")
        if faults:
            raise ValueError("; ".join(faults))
        values["ready"] = values.pop("ready_when", None)
        return cls(**values)


def parse_command(text: str) -> tuple[str, ...]:
    """`--health-cmd`: a script for the shell, or a JSON array of words, or none; raises UsageError."""
    if text == "none":
        return ("NONE",)
    if text.startswith("["):
        try:
            words = json.loads(text)
        except (ValueError, RecursionError):
            words = None
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            if words[0] in ("CMD", "CMD-SHELL", "NONE"):
                return command(words)
            return command(["CMD", *words])
    return command(["CMD-SHELL", text])


def command(words: Sequence[str]) -> tuple[str, ...]:
    """The member Test of an image's Healthcheck; raises UsageError."""
    kind, *rest = words or ("",)
    if (
        (kind == "NONE" and not rest)
        or (kind == "CMD" and rest and rest[0])
        or (kind == "CMD-SHELL" and len(rest) == 1 and rest[0])
    ):
        if any("\0" in word for word in rest):
            raise UsageError("A health check's command can't hold NUL bytes.")
        return tuple(words)
    raise UsageError(f"{list(words)!r:.80} is no health check.", hint='Write a script, or ["WORD", ...].')


def check_of(health: Health, image: Mapping[str, Any] | None, reference: str) -> Check | None:
    """The check of a container: what was asked for, over what its image says; None when there is none.

    Raises UsageError when the image's is none, or options are given and there is no check that they could be for.
    """
    found = _of_image(image, reference) if image is not None and health.test != ("NONE",) else {}
    test = health.test or found.pop("test", None)
    own = {
        name: getattr(health, name)
        for name in ("interval", "timeout", "retries", "start_period", "start_interval", "on_failure")
        if getattr(health, name) is not None
    }
    if test is None or test == ("NONE",):
        if own:
            raise UsageError(
                f"There is no health check for --health-{next(iter(own)).replace('_', '-')}.",
                hint="Give one with --health-cmd, or leave that option.",
            )
        return None
    words = test[1:] if test[0] == "CMD" else ("/bin/sh", "-c", test[1])
    found.pop("test", None)
    merged = {**found, **own}
    interval = merged.get("interval", INTERVAL)
    merged.setdefault("start_interval", min(START_INTERVAL, interval))
    return Check(words, **merged)


def _of_image(document: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Fields of Check and `test` by an image's config; members that are 0 count as absent, as with Docker."""
    node = Node(document, f"The health check of the image {reference}")
    try:
        found: dict[str, Any] = {}
        if test := node.texts("Test"):
            found["test"] = command(test)
        for name, own in _IMAGE_TIMES.items():
            value = node.value.get(name)
            if value is None or value == 0:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                node.fail(name, "is no number of nanoseconds")
            found[own] = duration(value / _NANO)
        if (count := node.value.get("Retries")) not in (None, 0):
            found["retries"] = retries(count)
    except (UsageError, IntegrityError, TypeError) as error:
        words = error.message if isinstance(error, (UsageError, IntegrityError)) else str(error)
        raise UsageError(
            f"The health check of the image {reference} can't be used: {words.rstrip('.')}.",
            hint="--no-healthcheck leaves it out, --health-cmd takes its place.",
        ) from error
    return found


def readiness(health: Health, check: Check | None, ports: Sequence[int]) -> Readiness:
    """What a start waits for; *ports* are those of TCP that the container has.  Raises UsageError."""
    if health.ready is None:
        # Units that are ordered after it shall find it healthy.
        return Readiness("started" if check is None else "healthy")
    if health.ready.kind == "healthy" and check is None:
        raise UsageError(
            "A container without a health check never gets healthy.", hint="Give one with --health-cmd."
        )
    if health.ready.kind == "port" and health.ready.port is None:
        if len(set(ports)) != 1:
            raise UsageError(
                f"Which port is meant is not clear: the container has {'several' if ports else 'none'}.",
                hint="Write --ready-when port:NUMBER.",
            )
        return Readiness("port", port=ports[0])
    return health.ready


def duration(value: float) -> float:
    """Seconds, a millisecond to a week; raises UsageError."""
    if not _LEAST_SECONDS <= value <= _MOST_SECONDS:
        raise UsageError(f"{value:g} seconds are no time of a health check.", hint="Give 1ms to 168h.")
    return float(value)


def period(value: float) -> float:
    """Seconds, 0 to a week; raises UsageError."""
    return 0.0 if value == 0 else duration(value)


def retries(value: Any) -> int:
    """How many probes in a row have to fail; raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise UsageError(f"{value!r} is no number of retries.", hint="Give 1 to 1000.")
    return value


def on_failure(text: str) -> str:
    """One of ON_FAILURE; raises UsageError."""
    if text not in ON_FAILURE:
        raise UsageError(
            f"{text[:40]!r} is nothing to do with an unhealthy container.",
            hint=f"Give {', '.join(ON_FAILURE)}.",
        )
    return text


def _time(check: Any) -> members.Reader:
    return members.optional(lambda value: check(members.number(value)))


_READERS: dict[str, members.Reader] = {
    "test": members.optional(lambda value: command(members.texts(value))),
    "interval": _time(duration),
    "timeout": _time(duration),
    "retries": members.optional(retries),
    "start_period": _time(period),
    "start_interval": _time(duration),
    "on_failure": members.optional(lambda value: on_failure(members.text(value))),
    "ready_when": members.optional(lambda value: Readiness.parse(members.text(value))),
    "start_timeout": _time(period),
}
