"""The one error the helper reports, and the note of what is being done when it happens.

Not for recovery: whoever raises or catches a Failure is about to end.
"""

from __future__ import annotations

import posix as os

# Exit statuses as systemd itself uses them, so that `systemctl status` prints their names
# (systemd.exec(5), "Process Exit Codes").
EXIT_CHDIR = 200
EXIT_EXEC = 203
EXIT_NAMESPACE = 226


# Characters of a sentence; it has to fit into one datagram of sd_notify(3).
_LONGEST = 1000


class Failure(Exception):
    """The container can't be started: one sentence and the exit status for systemd.

    A sentence quotes what the image says, which may be anything: a newline would begin another field of sd_notify(3),
    such as MAINPID=, and other control characters would steer the terminal of whoever reads the journal.
    """

    def __init__(self, message: str, status: int = EXIT_NAMESPACE) -> None:
        cut = message if len(message) <= _LONGEST else message[:_LONGEST] + "..."
        message = "".join([character if character.isprintable() else "?" for character in cut])
        super().__init__(message)
        self.message = message
        self.status = status


class Step:
    """What is being done right now, so that an OSError can be told as a sentence."""

    def __init__(self) -> None:
        self.doing = "start"

    def failure(self, error: OSError) -> Failure:
        """The sentence for *error*: what failed, on what, why."""
        reason = error.strerror or str(error)
        if error.errno:
            reason = (
                reason if os.strerror(error.errno) in reason else f"{reason} ({os.strerror(error.errno)})"
            )
        return Failure(f"can't {self.doing}: {reason}")
