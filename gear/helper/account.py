"""What the prober of a container tells of it: to people by the journal, to gear by events and by health.json."""

from __future__ import annotations

import posix as os
from _json import encode_basestring_ascii as quoted
from fcntl import F_DUPFD_CLOEXEC, fcntl
from time import time

from gear.helper import entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gear.helper.probe import Result

NOTICE, WARNING = 5, 4  # syslog(3)


class Account:
    """Of the container whose unit is *unit* and whose bundle is in the directory *bundle*."""

    def __init__(self, bundle: str, unit: str) -> None:
        # Standard error of this process becomes a probe's, so the journal needs another descriptor.
        self._journal = fcntl(2, F_DUPFD_CLOEXEC, 3)
        self._bundle = bundle
        self._name = unit.removeprefix("ctr-").removesuffix(".service")

    def say(self, level: int, text: str) -> None:
        """Have the journal keep the line *text*, which is of printable characters."""
        try:
            os.write(self._journal, f"<{level}>gear: {text}\n".encode())
        except OSError:
            pass  # journald is being restarted

    def event(self, level: int, state: str) -> None:
        """Have `gear events` show *state* (gear/notices.py)."""
        entries.send(
            {
                "MESSAGE": f"{self._name} is {state}",
                "PRIORITY": str(level),
                "SYSLOG_IDENTIFIER": "gear",
                "GEAR_EVENT": "health",
                "GEAR_HEALTH": state,
                "CONTAINER_NAME": self._name,
            }
        )

    def record(self, state: str, failing: int, result: Result | None) -> None:
        """Write health.json, which gear status reads: when the state changes and after failing probes."""
        invocation = os.environ.get(b"INVOCATION_ID", b"").decode()
        last = "null"
        if result is not None:
            status = "null" if result.status is None else str(result.status)
            words = quoted(result.why)
            output = quoted(result.output.decode("utf-8", "replace"))
            last = f'{{"ended": {time():.3f}, "exit_status": {status}, "why": {words}, "output": {output}}}'
        text = (
            f'{{"status": {quoted(state)}, "failing": {failing}, "since": {time():.3f}, '
            f'"invocation": {quoted(invocation)}, "last": {last}}}\n'
        )
        partial = f"{self._bundle}/.partial-health-{os.getpid()}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(partial, flags, 0o600)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
            os.rename(partial, f"{self._bundle}/health.json")
        except OSError as error:
            self.say(WARNING, f"can't write health.json: {error.strerror}")
