"""Times as people write them, and as systemd reads them (systemd.time(7)); here they are seconds."""

from __future__ import annotations

import re

from gear.errors import UsageError
from gear.patterns import pattern

_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,6})?)"
_UNITS = (("w", 604800), ("d", 86400), ("h", 3600), ("m(?!s)(?:in)?", 60), ("s(?:ec)?", 1), ("ms", 0.001))
# Docker's form, such as 1m30s, with days, weeks, and the words of systemd for minutes and seconds.
_TIME = pattern("".join(f"(?:{_NUMBER}{unit})?" for unit, _ in _UNITS), re.ASCII)
_PLAIN = pattern(_NUMBER, re.ASCII)


def parse(text: str) -> float:
    """Seconds: a number of them, or numbers with w, d, h, m, s and ms in this order; raises UsageError."""
    if _PLAIN.fullmatch(text):
        return float(text)
    match = _TIME.fullmatch(text)
    if not text or not match:
        raise UsageError(f"{text[:40]!r} is no time.", hint="Write for example 30s, 1m30s, 2d or 500ms.")
    parts = zip(match.groups(), _UNITS, strict=True)
    return sum(float(part) * length for part, (_, length) in parts if part is not None)


def whole(text: str) -> int:
    """The same for what is counted in whole seconds."""
    seconds = parse(text)
    if seconds != int(seconds):
        raise UsageError(f"{text[:40]!r} is no whole number of seconds.")
    return int(seconds)


def within(text: str, least: float, most: float, what: str) -> float:
    """The same between *least* and *most*; raises UsageError naming *what* it is."""
    try:
        seconds = parse(text)
    except UsageError:
        seconds = -1.0
    if not least <= seconds <= most:
        hint = f"Give {span(least)} to {span(most)}."
        raise UsageError(f"{text[:40]!r} is no {what}.", hint=hint)
    return seconds


def span(seconds: float) -> str:
    """*seconds* for a unit or a file of settings, to the millisecond."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
