"""Signals as people write them."""

from __future__ import annotations

import re
import signal

from gear.errors import UsageError


def signal_number(text: str) -> int:
    """The number of a signal given as SIGTERM, TERM, 15 or SIGRTMIN+3; raises UsageError.

    Docker's STOPSIGNAL allows each form; the numbers are this machine's (signal(7)).
    """
    word = text.strip().upper()
    if word.isascii() and word.isdigit() and len(word) < 4 and 1 <= int(word) <= signal.SIGRTMAX:
        return int(word)
    word = word.removeprefix("SIG")
    if match := re.fullmatch(r"(RTMIN|RTMAX)(?:([+-])([0-9]{1,2}))?", word):
        number = getattr(signal, f"SIG{match[1]}") + int((match[2] or "+") + (match[3] or "0"))
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return int(number)
    elif isinstance(found := getattr(signal, f"SIG{word}", None), signal.Signals):
        return int(found)
    raise UsageError(f"{text[:40]!r} is no signal.", hint="For example SIGTERM, QUIT, 15 or SIGRTMIN+3.")
