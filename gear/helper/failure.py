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


class Failure(Exception):
    """The container can't be started: one sentence and the exit status for systemd."""

    def __init__(self, message: str, status: int = EXIT_NAMESPACE) -> None:
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
