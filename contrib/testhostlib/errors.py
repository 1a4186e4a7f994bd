"""The errors testhost raises on purpose, each told to the user without a traceback.

ToolError         exit status 1: the machine lacks something, or it was tried and failed
├── UsageError    exit status 2: the request itself is wrong
└── CommandError  a command run inside a host failed
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class ToolError(Exception):
    """One sentence, and a hint that is shown on a line of its own."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")
        self.message = message
        self.hint = hint


class UsageError(ToolError):
    """The request is wrong; nothing was tried."""

    exit_status = 2


class CommandError(ToolError):
    """A command in a host exited with a failure, or did not end in time."""

    STDERR_TAIL = 2000

    def __init__(
        self,
        host: str,
        argv: Sequence[str],
        status: int | None,
        stderr: bytes,
        *,
        timeout: float | None = None,
    ) -> None:
        tail = stderr[-self.STDERR_TAIL :].decode(errors="replace").strip()
        end = f"exited with status {status}" if status is not None else f"did not end within {timeout:g} s"
        super().__init__(f"{host}: {shlex.join(argv)}: {end}" + (f": {tail}" if tail else ""))
        self.argv = list(argv)
        self.status = status
        self.stderr = stderr
