"""What the prober of a container tells of it: to people by the journal, to gear by events and by health.json."""

from __future__ import annotations

import posix as os
from _json import encode_basestring_ascii as quoted
from time import time

from gear.helper import entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gear.helper.probe import Result

NOTICE, WARNING = 5, 4  # syslog(3)


class Account:
    """Of the container whose unit is *unit* and whose bundle is in the directory *bundle*.

    journald adds whose entries they are (LogExtraFields=).
    """

    def __init__(self, bundle: str, unit: str) -> None:
        self._bundle = bundle
        self._name = unit.removeprefix("ctr-").removesuffix(".service")

    def say(self, level: int, text: str, **fields: str) -> None:
        """Have the journal keep an entry: *text*, which is of printable characters, and more *fields*."""
        entries.send({"MESSAGE": text, "PRIORITY": str(level), "SYSLOG_IDENTIFIER": "gear", **fields})

    def state(self, level: int, state: str, why: str = "") -> None:
        """The container is *state* from now on: an event that `gear events` shows (gear/notices.py)."""
        text = f"{self._name} is {state}{': ' if why else ''}{why}"
        self.say(level, text, GEAR_EVENT="health", GEAR_HEALTH=state)

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
