"""What the command line says about itself: errors and warnings on standard error and in the file of --log."""

from __future__ import annotations

import os
import sys

from gear.helper.failure import Failure
from gear.runtime.document import dumps
from gear.runtime.state import now

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Where messages go.  Clients read the file: podman shows the last `msg` of it."""

    def __init__(self, path: str = "", form: str = "text", level: str = "warning") -> None:
        path = path.removeprefix("file:")
        if form not in ("text", "json"):
            raise Failure(f"--log-format is text or json, not {form}", 2)
        level = {"warn": "warning", "fatal": "error", "panic": "error", "trace": "debug"}.get(level, level)
        if level not in LEVELS:
            raise Failure(f"--log-level is {', '.join(LEVELS[:-1])} or error, not {level}", 2)
        self._path, self._form, self._least = path, form, LEVELS.index(level)

    @property
    def verbose(self) -> bool:
        """Whether somebody looks for a fault."""
        return self._least == 0

    def write(self, level: str, message: str) -> None:
        """Say *message*, if the level is one that is wanted."""
        if LEVELS.index(level) < self._least:
            return
        prefix = "" if level == "error" else f"{level}: "
        print(f"gear-oci: {prefix}{message}", file=sys.stderr, flush=True)
        if self._path:
            line = {"level": level, "msg": message, "time": now()}
            text = dumps(line) if self._form == "json" else f"{line['time']} {level}: {message}"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                descriptor = os.open(self._path, flags, 0o600)
            except OSError as error:
                print(f"gear-oci: can't write the log {self._path}: {error.strerror}", file=sys.stderr)
                return
            os.write(descriptor, f"{text}\n".encode(errors="surrogateescape"))
            os.close(descriptor)

    def warn(self, message: str) -> None:
        """Something is not as config.json wants it, and the container goes on without."""
        self.write("warning", message)

    def debug(self, message: str) -> None:
        """For whoever looks for a fault."""
        self.write("debug", message)
